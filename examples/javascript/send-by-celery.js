// Sends an order line as a Celery task, by name, and prints the command's id.
//
//     node send-by-celery.js ORDERID SKU QTY
//
// BROKER_URL is amqp://guest:guest@127.0.0.1:5672 unless set.

import { connect } from "amqplib";
import { Client } from "celery-ts";

const ALLOCATION = "allocation.commands"; // the exchange, and the routing key

// celery-ts's own broker declares the queue that it sends to, without the arguments that Allocation's
// has, which RabbitMQ refuses; and it knows no exchange. This one publishes, and declares nothing.
class AllocationBroker {
  #connection;
  #channel;
  #sent = [];

  constructor(url) {
    this.#connection = connect(url);
    this.#channel = this.#open();
  }

  async #open() {
    const channel = await (await this.#connection).createConfirmChannel();
    // RabbitMQ confirms also what no queue took; but as it is mandatory, returns it first.
    channel.on("return", ({ fields }) => {
      throw new Error(`no queue took the command: ${fields.replyText}`);
    });
    return channel;
  }

  publish(message) {
    const sent = this.#publish(message);
    this.#sent.push(sent);
    return sent;
  }

  async #publish({ body, headers, properties, ...types }) {
    const channel = await this.#channel;
    const options = {
      headers,
      contentType: types["content-type"],
      contentEncoding: types["content-encoding"],
      correlationId: properties.correlation_id,
      persistent: true,
      mandatory: true,
    };
    await new Promise((resolve, reject) =>
      channel.publish(ALLOCATION, ALLOCATION, Buffer.from(body), options, (refused) =>
        refused ? reject(refused) : resolve(),
      ),
    );
  }

  async end() {
    await Promise.all(this.#sent);
    await (await this.#connection).close();
  }
}

// GET /v1/commands/{id} returns the outcome of a command. celery-ts queries its backend at once, and its own
// empty backend would cause an unhandled error.
const noResults = { get: async () => ({ result: undefined }), end: async () => {} };

const [orderid, sku, qty] = process.argv.slice(2);
const url = process.env.BROKER_URL ?? "amqp://guest:guest@127.0.0.1:5672";
const client = new Client({ backend: noResults, brokers: [new AllocationBroker(url)] });
const allocate = client.createTask("allocation.allocate");
const sent = allocate.applyAsync({ args: [], kwargs: { orderid, sku, qty: Number(qty) } });
await client.end();
console.log(sent.taskId);
