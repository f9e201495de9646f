CREATE SCHEMA [shop]]]
GO
CREATE TYPE [shop]]].[phone] FROM nvarchar(30) NOT NULL
GO
CREATE SEQUENCE [shop]]].[numbers] AS int START WITH 1 INCREMENT BY 2 MINVALUE 1 MAXVALUE 100 NO CYCLE CACHE 50
GO
CREATE SYNONYM [dbo].[folk] FOR [shop]]].[people]
GO
SET ANSI_NULLS ON
GO
SET QUOTED_IDENTIFIER OFF
GO
CREATE FUNCTION [shop]]].[double] (@x int) RETURNS int AS BEGIN RETURN @x * 2 END
GO
CREATE TABLE [dbo].[files] (
  [body] xml NULL,
  [place] hierarchyid NULL
)
GO
CREATE TABLE [shop]]].[orders] (
  [owner] int NULL,
  [amount] decimal(38,10) NULL,
  [version] timestamp NULL
)
GO
CREATE TABLE [shop]]].[people] (
  [id] int IDENTITY(10,5) NOT NULL,
  [na'me]]] nvarchar(50) COLLATE Latin1_General_BIN2 NULL,
  [phone] [shop]]].[phone] NOT NULL,
  [twice] AS ([shop]]].[double]([id]))
)
GO
<rows> 2
GO
<rows> 5000
GO
<rows> 3
GO
DBCC CHECKIDENT ('[shop]]].[people]', RESEED, 30) WITH NO_INFOMSGS
GO
ALTER SEQUENCE [shop]]].[numbers] RESTART WITH 9
GO
ALTER TABLE [shop]]].[people] ADD CONSTRAINT [pk_people] PRIMARY KEY CLUSTERED ([id])
GO
CREATE CLUSTERED COLUMNSTORE INDEX [cs_orders] ON [shop]]].[orders]
GO
CREATE NONCLUSTERED INDEX [ix_orders] ON [shop]]].[orders] ([owner]) INCLUDE ([amount]) WHERE ([amount]>(5)) WITH (FILLFACTOR = 80)
GO
SET ANSI_NULLS ON
GO
SET QUOTED_IDENTIFIER OFF
GO
-- CREATE VIEW x
CREATE /* was */ VIEW [shop]]].[b_lower] AS SELECT 1 AS one
GO
SET ANSI_NULLS ON
GO
SET QUOTED_IDENTIFIER OFF
GO
CREATE VIEW [shop]]].[a_upper] AS SELECT * FROM [shop]]].[b_lower]
GO
ALTER TABLE [shop]]].[orders] ADD CONSTRAINT [df] DEFAULT ((0)) FOR [amount]
GO
ALTER TABLE [shop]]].[orders] WITH NOCHECK ADD CONSTRAINT [ck] CHECK ([amount]>=(0))
GO
ALTER TABLE [shop]]].[orders] NOCHECK CONSTRAINT [ck]
GO
ALTER TABLE [shop]]].[orders] ADD CONSTRAINT [fk] FOREIGN KEY ([owner]) REFERENCES [shop]]].[people] ([id]) ON DELETE SET NULL
GO
SET ANSI_NULLS ON
GO
SET QUOTED_IDENTIFIER OFF
GO
CREATE TRIGGER [shop]]].[on_people] ON [shop]]].[people] AFTER INSERT AS RETURN
GO
DISABLE TRIGGER [shop]]].[on_people] ON [shop]]].[people]
GO
EXEC sys.sp_settriggerorder @triggername = N'[shop]]].[on_people]', @order = 'First', @stmttype = N'INSERT'
GO
DECLARE @value sql_variant = N'who''s who'; EXEC sys.sp_addextendedproperty @name = N'MS_Description', @value = @value, @level0type = N'SCHEMA', @level0name = N'shop]', @level1type = N'TABLE', @level1name = N'people', @level2type = N'COLUMN', @level2name = N'na''me]'
GO
