"""The age file format, version 1 (age-encryption.org/v1), binary: what a part of an encrypted backup is.

Written after the specification, https://c2sp.org/age. Recipients are X25519 keys (`age1…`), SSH keys (`ssh-ed25519`,
`ssh-rsa`) and passphrases. The stock `age` program opens every file, and its files open here.

Ours, over `cryptography`, and not `pyrage`, by measurement: docs/architecture.md has the figures.
"""
