"""A sample shop database, for the first minutes: `python -m dataguardian.cli.sample FILE`. Always the same rows."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

CUSTOMERS = 5_000
PRODUCTS = 800
ORDERS = 20_000

_SCHEMA = """
CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE,
    city TEXT NOT NULL,
    joined_on TEXT NOT NULL,
    spent_cents INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE products (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    category TEXT NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents > 0),
    picture BLOB
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers (id),
    placed_at TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'paid', 'sent', 'returned'))
);
CREATE TABLE order_items (
    order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
    line INTEGER NOT NULL,
    product_id INTEGER NOT NULL REFERENCES products (id),
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    price_cents INTEGER NOT NULL,
    PRIMARY KEY (order_id, line)
) WITHOUT ROWID;
CREATE INDEX orders_by_customer ON orders (customer_id, placed_at);
CREATE INDEX items_by_product ON order_items (product_id);
CREATE INDEX open_orders ON orders (placed_at) WHERE status = 'open';
CREATE VIEW order_totals AS
    SELECT order_id, sum(quantity * price_cents) AS total_cents FROM order_items GROUP BY order_id;
CREATE VIEW best_sellers AS
    SELECT products.name, sum(order_items.quantity) AS sold
    FROM products JOIN order_items ON order_items.product_id = products.id
    GROUP BY products.id ORDER BY sold DESC, products.id LIMIT 20;
CREATE TRIGGER item_added AFTER INSERT ON order_items BEGIN
    UPDATE customers SET spent_cents = spent_cents + new.quantity * new.price_cents
    WHERE id = (SELECT customer_id FROM orders WHERE id = new.order_id);
END;
"""

# 'n' counts from 1; a multiplication by a prime, modulo another number, spreads the rows evenly and always alike.
_COUNT = "WITH RECURSIVE counter (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < :rows) "
_ROWS = (
    (
        CUSTOMERS,
        """
        INSERT INTO customers (id, name, email, city, joined_on)
        SELECT n,
               json_extract('["Ada","Björn","Chloé","Dmitri","Emeka","Fátima","Grace","Hiro","Inés","Jürgen"]',
                            '$[' || (n * 7 % 10) || ']') || ' ' ||
               json_extract('["Almeida","Berg","Çelik","Dubois","Eze","Fontaine","García","Hansen","Ito"]',
                            '$[' || (n * 5 % 9) || ']'),
               'customer' || n || '@example.org',
               json_extract('["Lisboa","São Paulo","Genève","Kraków","Ōsaka","Lagos","Malmö"]',
                            '$[' || (n * 3 % 7) || ']'),
               date('2024-01-01', '+' || (n * 7919 % 900) || ' days')
        FROM counter
        """,
    ),
    (
        PRODUCTS,
        """
        INSERT INTO products
        SELECT n,
               json_extract('["Oak","Steel","Linen","Glass","Wool"]', '$[' || (n * 3 % 5) || ']') || ' ' ||
               json_extract('["chair","lamp","mug","rug","shelf","vase","clock"]', '$[' || (n * 5 % 7) || ']') ||
               ' no. ' || n,
               json_extract('["kitchen","living room","garden","office"]', '$[' || (n * 7 % 4) || ']'),
               199 + n * 7919 % 19800,
               CASE WHEN n % 3 THEN CAST(printf('%0*d', 64 + n % 700, n * 7919) AS BLOB) END
        FROM counter
        """,
    ),
    (
        ORDERS,
        """
        INSERT INTO orders
        SELECT n, 1 + n * 7919 % (SELECT count(*) FROM customers),
               datetime('2025-01-01', '+' || (n * 37) || ' minutes'),
               json_extract('["paid","sent","sent","open","sent","returned"]', '$[' || (n * 5 % 6) || ']')
        FROM counter
        """,
    ),
    (
        3,
        """
        INSERT INTO order_items
        SELECT orders.id, n, products.id, 1 + (orders.id + n) % 4, products.price_cents
        FROM orders JOIN counter JOIN products
        ON products.id = 1 + (orders.id * 31 + n * 101) % (SELECT count(*) FROM products)
        WHERE n <= 1 + orders.id % 3
        """,
    ),
)


def make_shop(path: Path) -> dict[str, int]:
    """Creates the database at `path`, which must not exist; returns the rows of each table."""
    with closing(sqlite3.connect(path)) as shop:
        shop.executescript("PRAGMA journal_mode = WAL;" + _SCHEMA)
        with shop:
            for rows, statement in _ROWS:
                shop.execute(_inserted(statement), {"rows": rows})
        tables = [name for (name,) in shop.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        return {name: shop.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608 -- our own names


def _inserted(statement: str) -> str:
    """SQLite wants the counter between INSERT's head and its SELECT."""
    head, select = statement.split("SELECT", 1)
    return f"{head}{_COUNT}SELECT{select}"


if __name__ == "__main__":
    sys.stdout.write(f"{make_shop(Path(sys.argv[1]))}\n")
