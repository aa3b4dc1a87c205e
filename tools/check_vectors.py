#!/usr/bin/env python3
"""Compares decode.py with the known answers in testdata/vectors.json: check_vectors.py FILE"""
import json
import struct
import sys

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from decode import (Frame, Keys, Record, Repository, derive, hash_core, identity_scalar, keyed, open_age, open_slot, parse,
                    unseal)


def same(got, expected, what):
    if got != expected:
        sys.exit(f"{what} is {got!r}, expected {expected!r}")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        known = json.load(file)
    raw = bytes.fromhex
    secret = raw(known["secret"])
    keys = Keys(secret)

    derived = known["keys"]
    id_root = derive("hikae 1 id root", secret)
    same(id_root.hex(), derived["id_root"], "the id root")
    same(keys.family.hex(), derived["family"], "the family id")
    same(keys.hash_key.hex(), derived["hash_key"], "the hash key")
    same(keys.seals[1].hex(), derived["metadata_key_1"], "metadata key 1")
    seed = derive("hikae 1 root signing key", secret)
    same(seed.hex(), derived["root_seed"], "the root seed")
    same(keys.root.hex(), derived["root"], "the root key")
    same(keys.identity.hex(), derived["first_identity"], "the first identity")
    same(identity_scalar(derived["first_identity_text"]), keys.identity, "the first identity as text")
    gear = struct.unpack("<256Q", blake3(id_root, derive_key_context="hikae 1 gear table").digest(length=2048))
    same([f"{gear[at]:016x}" for at in (0, 1, 255)], derived["gear"], "the gear table")

    for blob in known["blobs"]:
        same(keyed(keys.blob_keys[blob["class"]], raw(blob["plain"])).hex(), blob["id"], "a blob id")
    piece = known["piece"]
    same(keyed(keys.hash_key, raw(piece["plain"]))[:16].hex(), piece["hash"], "the hash of a piece")

    for one in known["seals"]:
        key, aad, plain = raw(one["key"]), raw(one["aad"]), raw(one["plain"])
        salt = keyed(derive("hikae 1 seal salt", key), struct.pack("<Q", len(aad)) + aad + plain)[:16]
        same(salt.hex(), one["salt"], "a salt")
        cipher = AESGCM if one["algorithm"] == 1 else ChaCha20Poly1305
        once = keyed(derive("hikae 1 seal key", key), salt)
        same(cipher(once).encrypt(bytes(12), plain, aad).hex(), one["sealed"], "a seal")
        same(unseal(key, one["algorithm"], salt, aad, raw(one["sealed"])), plain, "what a seal holds")

    for one in known["frames"]:
        aad = keys.family + bytes([1, one["class"]]) + raw(one["session"]) + struct.pack("<I", one["number"])
        same(aad.hex(), one["aad"], "the associated data of a frame")
        plain = raw(one["plain"])
        frame = Frame(session=(raw(one["session"]), b""), blob_class=one["class"], codec=one["codec"], algorithm=one["algorithm"],
                      number=one["number"], salt=raw(one["salt"]), plain_bytes=len(plain))
        same(keys.open_frame(raw(one["key"]), frame, raw(one["stored"])), plain, "a frame")

    one = known["object"]
    opened = keys.open_object(raw(one["stored"]), one["class"], raw(one["context"]))
    same(opened, (raw(one["body"]), raw(one["writer"])), "an object")
    same(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw(), opened[1], "its writer")

    same(hash_core(json.loads(known["core"]["stored"])["core"]).hex(), known["core"]["hash"], "the core hash")

    slots = known["slots"]
    for kind, given in (("passphrase", {"passphrase": slots["passphrase"]["with"].encode()}),
                        ("key_file", {"key_file": raw(slots["key_file"]["with"])}),
                        ("recipient", {"identities": [identity_scalar(slots["recipient"]["with"])]})):
        unlock = Record(**{"passphrase": None, "key_file": None, "identities": [], **given})
        payload = open_slot(raw(slots[kind]["stored"]), unlock)
        same((payload.secret, payload.core), (secret, raw(slots["core_hash"])), f"the slot of a {kind}")

    one = known["session"]
    repository = Record(keys=keys)
    epoch = Repository.signed(repository, "epoch", *parse("(b,64)", raw(one["epoch"])))
    session = Repository.signed(repository, "session", *parse("(b,64)", raw(one["session"])))
    same(keys.session_key(session, open_age(epoch.wrap, [keys.identity])), raw(one["key"]), "a session key")

    one = known["extents"]
    extents = [[blob and blob.hex(), offset, length] for blob, offset, length in Repository.extents(None, raw(one["stored"]))]
    same(extents, one["extents"], "a map of extents")
    print("all known answers hold")


if __name__ == "__main__":
    main()
