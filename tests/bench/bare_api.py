"""The limit of accepting: behind the same gunicorn a route that inserts the same two rows.

It checks nothing, wakes nobody and counts nothing.
"""

import json
import os
from typing import Any
from uuid import uuid4

from flask import Flask, jsonify, request
from psycopg2.pool import ThreadedConnectionPool

_COMMAND = """
    INSERT INTO commands (id, name, body, status, correlation_id, accepted_at)
    VALUES (%s, 'allocation.allocate', %s, 'pending', %s, now())"""
_OUTBOX = """
    INSERT INTO outbox (id, kind, name, sku, body, correlation_id, created_at)
    VALUES (%s, 'command', 'allocation.allocate', %s, %s, %s, now())"""


def create_app() -> Flask:
    app = Flask(__name__)
    pool = ThreadedConnectionPool(8, 8, os.environ["BARE_DSN"])

    @app.post("/v1/allocations")
    def allocate() -> Any:
        line = request.get_json()
        command_id, body = str(uuid4()), json.dumps(line)
        connection = pool.getconn()
        try:
            with connection.cursor() as cursor:
                cursor.execute(_COMMAND, (command_id, body, command_id))
                cursor.execute(_OUTBOX, (command_id, line["sku"], body, command_id))
            connection.commit()
        finally:
            pool.putconn(connection)
        return jsonify({"id": command_id, "status": "pending"}), 202

    return app
