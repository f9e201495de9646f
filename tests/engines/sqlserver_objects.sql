-- One of every kind of object. Servers differ in what they have; what one refuses is left out of its sample.
CREATE SCHEMA shop
GO
CREATE TYPE shop.phone FROM nvarchar(30) NOT NULL
GO
CREATE SEQUENCE shop.numbers AS int START WITH 100 INCREMENT BY 10 MINVALUE 0 MAXVALUE 100000 CACHE 20
GO
SELECT NEXT VALUE FOR shop.numbers
GO
CREATE TABLE shop.customers (id int NOT NULL CONSTRAINT pk_customers PRIMARY KEY, name nvarchar(100) NOT NULL, email varchar(200) CONSTRAINT uq_email UNIQUE, credit decimal(10,2) NOT NULL CONSTRAINT df_credit DEFAULT (0),
  CONSTRAINT ck_credit CHECK (credit >= 0))
GO
CREATE TABLE shop.orders (id int NOT NULL CONSTRAINT pk_orders PRIMARY KEY, customer_id int NOT NULL, amount int NOT NULL, twice AS (amount * 2), CONSTRAINT fk_customer
  FOREIGN KEY (customer_id)
  REFERENCES shop.customers (id) ON DELETE CASCADE)
GO
INSERT INTO shop.customers (id, name, email, credit) VALUES (1, N'Åse', 'a@example.org', 5), (2, N'B', NULL, 0)
GO
INSERT INTO shop.orders (id, customer_id, amount) VALUES (1, 1, 10), (2, 1, 20), (3, 2, 30)
GO
CREATE INDEX ix_amount ON shop.orders (amount DESC) INCLUDE (customer_id)
GO
CREATE INDEX ix_rich ON shop.orders (customer_id) WHERE amount > 15
GO
CREATE VIEW shop.rich AS SELECT id, amount FROM shop.orders WHERE amount > 15
GO
CREATE VIEW shop.all_rich AS SELECT id FROM shop.rich
GO
CREATE FUNCTION shop.doubled (@x int) RETURNS int AS BEGIN RETURN @x * 2 END
GO
CREATE PROCEDURE shop.count_orders @least int = 0 AS SELECT COUNT(*) AS n FROM shop.orders WHERE amount >= @least
GO
CREATE TRIGGER shop.on_order ON shop.orders AFTER INSERT AS UPDATE shop.customers SET credit = credit + 1
GO
CREATE SYNONYM shop.clients FOR shop.customers
GO
CREATE TABLE dbo.documents (id int NOT NULL, body xml, v sql_variant, old_text ntext, old_image image)
GO
INSERT INTO dbo.documents (id, body, v, old_text, old_image)
  VALUES (1, N'<a><b>ü</b></a>', CAST(1.50 AS decimal(5,2)), N'old ü', 0x0102), (2, NULL, N'text', NULL, NULL)
GO
CREATE TABLE dbo.places (id int NOT NULL, node hierarchyid)
GO
INSERT INTO dbo.places VALUES (1, hierarchyid::Parse('/1/2/'))
GO
EXEC sys.sp_addextendedproperty @name = N'MS_Description', @value = N'people', @level0type = N'SCHEMA',
  @level0name = N'shop', @level1type = N'TABLE', @level1name = N'customers'
GO
-- Names as people write them, and expressions that a server need not show in its own words.
CREATE TABLE shop.CustomerNotes (NoteId int NOT NULL CONSTRAINT pk_notes PRIMARY KEY, Kind varchar(20) CHECK (Kind LIKE 'a%' OR ISNULL(Kind, 'x') = 'x'),
  [Said At] datetime NOT NULL DEFAULT (GETDATE()), Amount int DEFAULT (CASE WHEN 1 = 1 THEN 3 ELSE 4 END), Size AS (CASE WHEN Amount > 2 THEN 'big' ELSE 'small' END), Half AS (ISNULL(Amount, 0) / 2),
  Mask varbinary(4) DEFAULT (0x0102), [Text] nvarchar(20) DEFAULT (N'ä''x'), Number int DEFAULT (NEXT VALUE FOR shop.numbers))
GO
INSERT INTO shop.CustomerNotes (NoteId, Kind, [Said At]) VALUES (1, 'abc', '2024-01-01'), (2, NULL, '2024-01-02')
GO
CREATE VIEW shop.BigNotes AS SELECT NoteId, Size AS HowBig FROM shop.CustomerNotes
GO
CREATE FUNCTION shop.PairsOf (@x int) RETURNS @pairs TABLE (a int, b nvarchar(10)) AS BEGIN INSERT INTO @pairs VALUES (@x, N'x'); RETURN END
GO
CREATE TYPE shop.NumberList AS TABLE (id int NOT NULL PRIMARY KEY, note nvarchar(50) DEFAULT 'x')
GO
INSERT INTO shop.CustomerNotes (NoteId, [Text]) VALUES (3, N'a
GO over
b')
GO
