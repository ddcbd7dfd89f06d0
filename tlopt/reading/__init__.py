"""Whatever comes from outside is opened, read, checked and named here: files, images, schemas, names."""
