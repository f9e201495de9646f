-- A column of every common type, with its smallest, largest and oddest values. Every server has these.
CREATE TABLE dbo.types (
 id int IDENTITY(10,5) NOT NULL CONSTRAINT pk_types PRIMARY KEY, c_bigint bigint, c_smallint smallint, c_tinyint tinyint,
 c_bit bit, c_decimal decimal(38,10), c_numeric numeric(9,2), c_money money, c_smallmoney smallmoney, c_float float,
 c_real real, c_date date, c_time time(7), c_datetime datetime, c_datetime2 datetime2(7), c_small smalldatetime,
 c_offset datetimeoffset(7), c_char char(10), c_varchar varchar(50), c_vmax varchar(max), c_nchar nchar(10),
 c_nvarchar nvarchar(50), c_nmax nvarchar(max), c_binary binary(8), c_varbinary varbinary(50), c_bmax varbinary(max),
 c_guid uniqueidentifier)
GO
INSERT INTO dbo.types (c_bigint, c_smallint, c_tinyint, c_bit, c_decimal, c_numeric, c_money, c_smallmoney, c_float, c_real, c_date, c_time, c_datetime, c_datetime2, c_small, c_offset, c_char, c_varchar, c_vmax, c_nchar, c_nvarchar, c_nmax, c_binary, c_varbinary, c_bmax, c_guid)
  VALUES (-9223372036854775808, -32768, 255, 1, -1234567890123456789012345678.0123456789, 1234567.89, -922337203685477.5808, 214748.3647, 1.7976931348623157e308, 3.4e38, '9999-12-31', '23:59:59.9999999', '1753-01-01T00:00:00.003', '9999-12-31T23:59:59.9999999', '2079-06-06T23:59:00', '2024-02-29T12:34:56.1234567+13:45', 'abc', 'it''s', 'x', N'ж', N'日本語 😀', N'😀', 0x00FF, 0x, 0x00010203, '00112233-4455-6677-8899-aabbccddeeff')
GO
INSERT INTO dbo.types (c_float, c_real, c_nvarchar, c_nmax, c_vmax) VALUES (5e-324, 1e-45, N'', N'', '')
GO
INSERT INTO dbo.types (c_nmax, c_bmax)
  VALUES (REPLICATE(CAST(N'ü' AS nvarchar(max)), 200000),
  CAST(REPLICATE(CAST('y' AS varchar(max)), 700000) AS varbinary(max)))
GO
INSERT INTO dbo.types DEFAULT VALUES
GO
