// Sends an order line by plain AMQP, and receives the resulting events from a queue of its own.
//
//     node send-and-hear.js ORDERID SKU QTY
//
// BROKER_URL is amqp://guest:guest@127.0.0.1:5672 unless set.

import { randomUUID } from "node:crypto";

import { connect } from "amqplib";

const [orderid, sku, qty] = process.argv.slice(2);
const connection = await connect(process.env.BROKER_URL ?? "amqp://guest:guest@127.0.0.1:5672");

// First the queue, then the command: events published before the queue is bound do not reach it.
const events = await connection.createChannel();
const { queue } = await events.assertQueue("javascript.events", {
  durable: true,
  arguments: { "x-queue-type": "quorum" },
});
await events.bindQueue(queue, "allocation.events", "");

const id = randomUUID();
const heard = new Set();
const answered = new Promise((resolve, reject) =>
  events.consume(queue, (message) => {
    if (message === null) return reject(new Error(`${queue} was deleted`));
    const event = JSON.parse(message.content);
    // An event may come twice, with the same id: a service keeps the ids beside their effects.
    if (!heard.has(event.id)) {
      heard.add(event.id);
      console.log(event.type, event.subject, event.sequence, JSON.stringify(event.data));
    }
    events.ack(message);
    if (event.causationid === id) resolve();
  }),
);

const commands = await connection.createConfirmChannel();
// RabbitMQ confirms also what no queue took; but as it is mandatory, returns it first.
commands.on("return", ({ fields }) => {
  throw new Error(`no queue took the command: ${fields.replyText}`);
});
commands.publish(
  "allocation.commands",
  "allocation.commands",
  Buffer.from(JSON.stringify([[], { orderid, sku, qty: Number(qty) }, {}])),
  {
    headers: { task: "allocation.allocate", id },
    contentType: "application/json",
    contentEncoding: "utf-8",
    persistent: true,
    mandatory: true,
  },
);
await commands.waitForConfirms(); // it is at the broker, and outlives it
console.log("sent", id);

await answered;
await events.close(); // after its acknowledgements, which a closed connection might overtake
await connection.close();
