"""One of everything that MariaDB has, and ways to look at a database that are not the engine's."""

from __future__ import annotations

import re
from typing import Any

from tests.mariadb import MariadbServer, quoted

EVERYTHING = (
    # Names: reserved words, backticks, spaces, other scripts, and one that only differs in case.
    "CREATE TABLE `select` (`from` INT PRIMARY KEY, `a``b` VARCHAR(20), `ünï 日本` TEXT) DEFAULT CHARSET utf8mb4",
    (
        "INSERT INTO `select` VALUES"
        " (1, 'x''y\\\\z', 'line 1\nline 2;\nDELIMITER ;;\n-- not a comment\r\n\\0'), (-2, '', NULL)"
    ),
    "CREATE TABLE `t;\nx'\"` (n INT)",
    "INSERT INTO `t;\nx'\"` VALUES (1)",
    # Every type.
    """CREATE TABLE types (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
        ti TINYINT(1), de DECIMAL(65, 30), fl FLOAT, dou DOUBLE,
        bi BIT(64), dt DATE, dti DATETIME(6), ts TIMESTAMP(6) NULL, tm TIME(6), y YEAR, ch CHAR(5),
        bin BINARY(4),
        vb VARBINARY(300), bl LONGBLOB, tx LONGTEXT, la VARCHAR(20) CHARACTER SET latin1, en ENUM('a', 'b''c', 'ü'),
        se SET('x', 'y', 'z'), js JSON, ge GEOMETRY, po POINT NOT NULL, uu UUID, ip INET6,
        sum_ DOUBLE GENERATED ALWAYS AS (fl + 1) STORED, vir INT GENERATED ALWAYS AS (ti + 1) VIRTUAL,
        inv INT INVISIBLE,
        CHECK (ti < 100), SPATIAL INDEX (po), FULLTEXT (tx), INDEX (vir)
    ) COMMENT 'it''s; a "comment" \\\\ 😀'""",
    """INSERT INTO types (
        id, ti, de, fl, dou, bi, dt, dti, ts, tm, y, ch, bin, vb, bl, tx, la, en, se, js, ge, po, uu, ip, inv)
    VALUES (18446744073709551614, -128, '-99999999999999999999999999999999999.123456789012345678901234567890', 1.5e-38,
        1.7976931348623157e308, b'1000000000000000000000000000000000000000000000000000000000000001',
        '0000-00-00',
        '9999-12-31 23:59:59.999999', '1970-01-01 00:00:01.000001', '-838:59:59', 1901, 'a',
        X'00FF0A27', X'0001020D0A1A5C275C00',
        REPEAT(X'00', 70000),
        REPEAT('😀''"\\\\', 5000),
        'äöü', 'b''c', 'x,z', '{"k": [1, null, "😀"]}',
        ST_GeomFromText('POLYGON((0 0, 1 1, 1 0, 0 0))'), POINT(1, 2), UUID(), '::1', 5)""",
    """INSERT INTO types (id, ti, dt, dti, ts, po, tx, bl)
    VALUES (5, NULL, '2024-00-31', '0000-00-00 00:00:00', NULL, POINT(0, 0),
        '', '')""",
    "CREATE TABLE zero (id INT AUTO_INCREMENT PRIMARY KEY)",
    "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'",
    "INSERT INTO zero VALUES (0), (7)",
    "SET SESSION sql_mode = ''",
    # Tables that need each other, and one that needs itself.
    "CREATE TABLE hen (id INT PRIMARY KEY, egg INT)",
    "CREATE TABLE egg (id INT PRIMARY KEY, hen INT, CONSTRAINT laid FOREIGN KEY (hen) REFERENCES hen (id))",
    "ALTER TABLE hen ADD CONSTRAINT `hatched from` FOREIGN KEY (egg) REFERENCES egg (id) ON DELETE SET NULL",
    "CREATE TABLE tree (id INT PRIMARY KEY, up INT, FOREIGN KEY (up) REFERENCES tree (id) ON DELETE CASCADE)",
    "SET foreign_key_checks = 0",
    "INSERT INTO hen VALUES (1, 2)",
    "INSERT INTO egg VALUES (2, 1)",
    "INSERT INTO tree VALUES (1, 2), (2, NULL)",
    "SET foreign_key_checks = 1",
    # Kinds of tables.
    (
        "CREATE TABLE parted (id INT, y INT, KEY (id)) PARTITION BY RANGE (y) SUBPARTITION BY HASH (id) SUBPARTITIONS 2"
        " (PARTITION p0 VALUES LESS THAN (2000), PARTITION p1 VALUES LESS THAN MAXVALUE)"
    ),
    "INSERT INTO parted SELECT seq, 1990 + seq FROM seq_1_to_30",
    "CREATE TABLE packed (a INT, b TEXT) ROW_FORMAT = COMPRESSED",
    "INSERT INTO packed VALUES (1, REPEAT('a', 10000))",
    "CREATE TABLE versioned (id INT PRIMARY KEY, n INT) WITH SYSTEM VERSIONING",
    "INSERT INTO versioned VALUES (1, 1), (2, 1)",
    "UPDATE versioned SET n = 2 WHERE id = 1",
    "DELETE FROM versioned WHERE id = 2",
    "CREATE SEQUENCE counter START WITH 100 INCREMENT BY 3 NOCACHE",
    "CREATE TABLE counted (id BIGINT NOT NULL DEFAULT (NEXT VALUE FOR counter) PRIMARY KEY, x INT DEFAULT (1 + 2))",
    "INSERT INTO counted (x) VALUES (1), (2)",
    # Code.
    "CREATE FUNCTION twice(a INT) RETURNS INT DETERMINISTIC RETURN a * 2",
    "CREATE DEFINER = `nobody here`@`%` FUNCTION foreigner() RETURNS VARCHAR(20) SQL SECURITY INVOKER RETURN 'ä;\n'",
    """CREATE PROCEDURE `odd ;; name`(INOUT a INT, OUT b TEXT)
    COMMENT 'it''s'
    BEGIN
      -- don't stop at this quote, nor here: ;;
      # nor here: it's
      /* DELIMITER //
         it's ;; */
      DECLARE EXIT HANDLER FOR SQLEXCEPTION ROLLBACK;
      SET b = 'DELIMITER //\n;;\n', a = a + 1;
      IF a > 1 THEN SELECT ";;" ; END IF;
    END""",
    "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'",
    """CREATE PROCEDURE ansi() BEGIN SELECT 'ends with \\' || ';;' AS "quo'ted"; END""",
    "SET SESSION sql_mode = 'ORACLE'",
    "CREATE PACKAGE pack AS FUNCTION f RETURN INT; END",
    "CREATE PACKAGE BODY pack AS FUNCTION f RETURN INT AS BEGIN RETURN 1; END; END",
    "SET SESSION sql_mode = ''",
    "CREATE TRIGGER `be fore` BEFORE INSERT ON zero FOR EACH ROW SET NEW.id = NEW.id, @x = 'a;;b'",
    "CREATE TRIGGER second BEFORE INSERT ON zero FOR EACH ROW FOLLOWS `be fore` BEGIN /* c */ SET @y = 1; END",
    "CREATE TRIGGER first BEFORE INSERT ON zero FOR EACH ROW PRECEDES `be fore` SET @z = 1",
    "CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' COMMENT 'ENABLE; it' DO SET @a = ';'",
    (
        "CREATE EVENT asleep ON SCHEDULE EVERY 1 HOUR STARTS '2030-01-01 00:00:00'"
        " ON COMPLETION PRESERVE DISABLE DO SET @a = 1"
    ),
    # Views on views, in an order that the alphabet does not give.
    "CREATE VIEW z_base AS SELECT `from`, `a``b` AS s, twice(`from`) AS t, 'it''s;\n' AS u FROM `select`",
    "CREATE SQL SECURITY INVOKER VIEW a_top AS SELECT s, t FROM z_base WHERE t > 0",
    (
        "CREATE ALGORITHM = MERGE DEFINER = `nobody here`@`%` VIEW checked"
        " AS SELECT id FROM hen WHERE id > 0 WITH CHECK OPTION"
    ),
)

_COLLATION = "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s"
_TABLES = """
SELECT TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_TYPE <> 'VIEW'
"""


def build_everything(server: MariadbServer) -> str:
    name = server.database(options="CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
    with server.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = ''")
        for statement in EVERYTHING:
            cursor.execute(statement)
    return name


def content_of(server: MariadbServer, database: str) -> dict[str, Any]:
    """The stock program's text of everything but rows, the server's own checksums of rows, and what both leave out."""
    if database not in server.databases():
        return {}
    options = ["--no-data", "--routines", "--events", "--triggers", "--skip-comments", "--skip-dump-date", "--skip-opt"]
    schema = server.run("mariadb-dump", *options, "--create-options", "--quote-names", "--", database).decode()
    text = schema.replace(f"{quoted(database)}.", "`DATABASE`.")
    found: dict[str, Any] = {"schema": re.sub(r"(?m)^DO SETVAL.*$", "", text)}
    with server.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(_COLLATION, (database,))
        found["collation"] = cursor.fetchall()
        cursor.execute(_TABLES, (database,))
        for table, kind in cursor.fetchall():
            if kind == "SEQUENCE":
                cursor.execute(f"SELECT next_not_cached_value FROM {quoted(table)}")
            elif kind == "SYSTEM VERSIONED":
                columns = "*, ROW_START, ROW_END"
                cursor.execute(f"SELECT {columns} FROM {quoted(table)} FOR SYSTEM_TIME ALL ORDER BY 1, 2, 3")
            else:
                cursor.execute(f"CHECKSUM TABLE {quoted(table)} EXTENDED")
                found[table] = cursor.fetchall()[0][1]
                continue
            found[table] = cursor.fetchall()
    return found
