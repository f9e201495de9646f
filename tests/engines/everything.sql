-- Every kind of object that PostgreSQL has, at least once, with names that need quoting.
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE EXTENSION IF NOT EXISTS postgres_fdw;
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE SCHEMA shop;
CREATE SCHEMA "Odd ""Schema"" -- ñandú '";
COMMENT ON SCHEMA shop IS 'what''s sold; "quoted" -- and more';
CREATE TYPE shop.mood AS ENUM ('sad', 'o''k', 'très content');
CREATE TYPE shop.address AS (street text, zip varchar(10));
CREATE TYPE shop.float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE DOMAIN shop.positive AS integer CHECK (VALUE > 0);
CREATE COLLATION shop.nocase (provider = libc, locale = 'C');
CREATE SEQUENCE shop.ticket START 7 INCREMENT 3 CACHE 5;
SELECT nextval('shop.ticket'), nextval('shop.ticket');
CREATE TABLE shop.customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL COLLATE shop.nocase,
    mood shop.mood DEFAULT 'sad',
    home shop.address,
    score shop.positive,
    span shop.float_range,
    tags text[] DEFAULT '{a,b}',
    extra jsonb,
    raw bytea,
    shout text GENERATED ALWAYS AS (upper(name)) STORED,
    pairs hstore,
    born timestamptz DEFAULT '2020-02-29 12:00:00+00',
    money numeric(20, 5),
    CONSTRAINT sane CHECK (length(name) > 0)
);
INSERT INTO shop.customer (name, mood, home, score, span, extra, raw, pairs, money)
SELECT 'name ' || g || E' \t\n\\ ''"' , 'très content', ROW('rue ' || g, g::text)::shop.address, g, '[1.5,2.5)',
    jsonb_build_object('k', g), decode(md5(g::text), 'hex'), 'a=>1,b=>NULL', g * 1.23456
FROM generate_series(1, 500) g;
ALTER TABLE shop.customer ALTER COLUMN name SET STATISTICS 500;
COMMENT ON COLUMN shop.customer.name IS 'naïve; comment';
CREATE INDEX ON shop.customer USING gin (name gin_trgm_ops);
CREATE UNIQUE INDEX partial ON shop.customer (lower(name)) INCLUDE (score) WHERE score > 10;
CREATE STATISTICS shop.correlated (dependencies, ndistinct) ON name, mood FROM shop.customer;
CREATE TABLE "Odd ""Schema"" -- ñandú '"."-leading dash = 'x'" ("UPPER lower" int PRIMARY KEY, "select" text, "日本" text);
INSERT INTO "Odd ""Schema"" -- ñandú '"."-leading dash = 'x'" VALUES (1, NULL, '東京'), (2, '', E'\\N');
CREATE TABLE shop.orders (
    id int, day date NOT NULL, customer bigint REFERENCES shop.customer ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    during tstzrange, PRIMARY KEY (id, day)
) PARTITION BY RANGE (day);
CREATE TABLE shop.orders_2020 PARTITION OF shop.orders FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE shop.orders_rest PARTITION OF shop.orders DEFAULT PARTITION BY HASH (id);
CREATE TABLE shop.orders_rest_0 PARTITION OF shop.orders_rest FOR VALUES WITH (MODULUS 1, REMAINDER 0);
INSERT INTO shop.orders SELECT g, date '2020-06-01' + g, g % 500 + 1, NULL FROM generate_series(1, 600) g;
CREATE TABLE shop.parent (a int, b text);
CREATE TABLE shop.child (c int) INHERITS (shop.parent);
INSERT INTO shop.parent VALUES (1, 'p');
INSERT INTO shop.child VALUES (2, 'c', 3);
CREATE UNLOGGED TABLE shop.fast (v int);
INSERT INTO shop.fast VALUES (42);
CREATE TABLE shop.booking (room int, during tsrange, EXCLUDE USING gist (during WITH &&));
CREATE VIEW shop.happy WITH (security_barrier) AS SELECT id, name FROM shop.customer WHERE mood <> 'sad' WITH LOCAL CHECK OPTION;
CREATE MATERIALIZED VIEW shop.totals AS SELECT mood, count(*) AS n FROM shop.customer GROUP BY mood;
CREATE UNIQUE INDEX ON shop.totals (mood);
CREATE FUNCTION shop.twice(x int) RETURNS int LANGUAGE sql IMMUTABLE AS $body$ SELECT x * 2; -- ; ' "
$body$;
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.b := coalesce(NEW.b, '') || '!'; RETURN NEW; END $$;
CREATE PROCEDURE shop.nothing(INOUT x int) LANGUAGE plpgsql AS $$ BEGIN x := x + 1; END $$;
CREATE AGGREGATE shop.product(int) (sfunc = int4mul, stype = int4, initcond = '1');
CREATE FUNCTION shop.near(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT abs($1 - $2) < 10';
CREATE OPERATOR shop.=~= (LEFTARG = int, RIGHTARG = int, FUNCTION = shop.near, COMMUTATOR = OPERATOR(shop.=~=));
CREATE OPERATOR FAMILY shop.fam USING btree;
CREATE OPERATOR CLASS shop.cls FOR TYPE shop.address USING btree FAMILY shop.fam AS STORAGE shop.address;
CREATE FUNCTION shop.to_text(shop.address) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ($1).street';
CREATE CAST (shop.address AS text) WITH FUNCTION shop.to_text(shop.address) AS ASSIGNMENT;
CREATE CONVERSION shop.conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON shop.parent FOR EACH ROW WHEN (NEW.a > 0) EXECUTE FUNCTION shop.touch();
ALTER TABLE shop.parent DISABLE TRIGGER stamp;
CREATE FUNCTION shop.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION shop.on_ddl();
CREATE RULE no_delete AS ON DELETE TO shop.fast DO INSTEAD NOTHING;
ALTER TABLE shop.customer ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON shop.customer FOR SELECT TO "odd ""role""; --" USING (name = current_user);
SELECT lo_from_bytea(100001, decode(repeat('00ff', 5000), 'hex'));
COMMENT ON LARGE OBJECT 100001 IS 'a blob';
GRANT SELECT ON LARGE OBJECT 100001 TO "odd ""role""; --";
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere', dbname 'x');
CREATE USER MAPPING FOR "odd ""role""; --" SERVER elsewhere OPTIONS (user 'u', password 's3cr3t-mapping');
CREATE FOREIGN TABLE shop.remote (a int, b text) SERVER elsewhere OPTIONS (table_name 'r');
CREATE TEXT SEARCH DICTIONARY shop.dict (TEMPLATE = simple, accept = false);
CREATE TEXT SEARCH CONFIGURATION shop.search (COPY = simple);
ALTER TEXT SEARCH CONFIGURATION shop.search ALTER MAPPING FOR asciiword WITH shop.dict;
CREATE PUBLICATION pub FOR TABLE shop.child (a, c) WHERE (a > 0) WITH (publish = 'insert');
CREATE PUBLICATION pub2 FOR TABLES IN SCHEMA shop;
CREATE SUBSCRIPTION gone CONNECTION 'host=nowhere dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE, enabled = false);
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE shop.other_heap (a int) USING heap2;
ALTER TABLE shop.parent OWNER TO "odd ""role""; --";
GRANT SELECT, UPDATE (name) ON shop.customer TO "odd ""role""; --" WITH GRANT OPTION;
GRANT USAGE ON SCHEMA shop TO PUBLIC;
REVOKE ALL ON FUNCTION shop.twice(int) FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO "odd ""role""; --";
ALTER DEFAULT PRIVILEGES FOR ROLE "odd ""role""; --" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER TABLE shop.customer REPLICA IDENTITY FULL;
ALTER TABLE shop.customer CLUSTER ON customer_pkey;
ALTER TABLE shop.parent SET (fillfactor = 70, autovacuum_enabled = false);
