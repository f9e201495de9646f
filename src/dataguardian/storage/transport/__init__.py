"""How bytes reach services: what several storages share, loaded when one of them is used."""
