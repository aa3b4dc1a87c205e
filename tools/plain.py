"""What decode.py needs and is not hikae's own: CBOR, records by a table, cryptography, age files, entries on a disk."""
import base64, hashlib, hmac, os, re, struct
from types import SimpleNamespace as Record

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Bad(Exception):
    """Something is not what the format says that it is."""


# What reading damaged bytes may raise.
DAMAGE = (Bad, OSError, ValueError, LookupError, TypeError, struct.error, zstandard.ZstdError)


def need(holds, otherwise):
    if not holds:
        raise Bad(otherwise)


def take_cbor(data, at=0, depth=16):
    """One value at `at`, and where it ends. The format has no floats, no tags and no indefinite lengths, and no value has two
    forms (RFC 8949, section 4.2.1)."""
    need(at < len(data) and depth >= 0, "CBOR ends too early, or is too deep")
    major, number, at = data[at] >> 5, data[at] & 31, at + 1
    if major == 7:
        need(number in (20, 21), "CBOR holds a value of an unknown type")
        return number == 21, at
    if number >= 24:
        end = at + (1 << number - 24)
        need(number < 28 and end <= len(data), "CBOR ends too early")
        least, number, at = (24, 1 << 8, 1 << 16, 1 << 32)[number - 24], int.from_bytes(data[at:end], "big"), end
        need(number >= least, "CBOR holds a number that is longer than it need be")
    if major < 2:
        return (-1 - number if major else number), at
    need(major < 6 and number <= len(data) - at, "CBOR ends too early")
    if major < 4:
        value = bytes(data[at:at + number])
        return (value if major == 2 else value.decode()), at + number
    values = []
    for _ in range(number if major == 4 else 2 * number):
        value, at = take_cbor(data, at, depth - 1)
        values.append(value)
    if major == 4:
        return values, at
    keys = values[::2]
    need({type(key) for key in keys} in (set(), {int}, {bytes}), "CBOR holds keys of an unknown type")
    need(all(one < next for one, next in zip(keys, keys[1:])), "CBOR holds keys twice or out of order")
    return dict(zip(keys, values[1::2])), at


def take_varint(data, at):
    """One LEB128 number at `at`, and where it ends."""
    number = 0
    for shift in range(0, 64, 7):
        number |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            need(number < 1 << 64, "a number is too large")
            return number, at
    raise Bad("a number is too long")


def to_cbor(value):
    """Natural numbers, byte strings, texts, arrays and maps: what the core hash covers."""
    major = {int: 0, bytes: 2, str: 3, list: 4, dict: 5}[type(value)]
    value = value.encode() if major == 3 else value
    number = len(value) if major else value
    if number < 24:
        head = bytes([major << 5 | number])
    else:
        power = next(power for power in range(4) if number < 1 << (8 << power))
        head = bytes([major << 5 | 24 + power]) + number.to_bytes(1 << power, "big")
    if major == 5:
        return head + b"".join(to_cbor(key) + to_cbor(value[key]) for key in sorted(value))
    if major == 4:
        return head + b"".join(map(to_cbor, value))
    return head + value if major else head


PLAIN = {"n": int, "i": int, "t": str, "f": bool, "b": bytes, "list": list, "map": dict}


def fit_record(records, kind, value):
    """`value`, if it is of this kind. See `RECORDS` in records.py."""
    if kind[0] == "*":
        return [fit_record(records, kind[1:], one) for one in fit_record(records, "list", value)]
    if kind[0] == "(":
        kinds = kind[1:-1].split(",")
        need(len(fit_record(records, "list", value)) == len(kinds), "an array has another length")
        return tuple(fit_record(records, one, field) for one, field in zip(kinds, value))
    if kind in records:
        words, fields = records[kind].split(), {}
        for number, (name, of) in enumerate(zip(words[::2], words[1::2])):
            field = fit_record(records, "map", value).get(number)
            need(field is not None or of[0] == "?", f"a record lacks its {name}")
            fields[name] = None if field is None else fit_record(records, of.lstrip("?"), field)
        return Record(**fields)
    if kind == "any":
        return value
    need(type(value) is PLAIN.get(kind, bytes), f"{value!r:.40} is not of kind {kind}")
    need(not (kind == "n" and value < 0 or kind.isdigit() and len(value) != int(kind)), f"{value!r:.40} is not of kind {kind}")
    return value


def parse_record(records, kind, data):
    value, end = take_cbor(data)
    need(end == len(data), "bytes follow a record")
    return fit_record(records, kind, value)


def digest(data):
    return blake3(data).digest()


def derive(context, key):
    return blake3(key, derive_key_context=context).digest()


def keyed(key, data):
    return blake3(data, key=key).digest()


def pack_u64(number):
    return struct.pack("<Q", number)


def check_signature(writer, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(writer).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Bad("its signature is not that of its writer") from None


def public_half(scalar):
    return X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()


def agree(scalar, public):
    return X25519PrivateKey.from_private_bytes(scalar).exchange(X25519PublicKey.from_public_bytes(public))


def hkdf(key, salt, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(key)


def unbase64(text):
    return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)


def open_age(wrap, scalars):
    """What an age file of less than 64 KiB holds, or None if none of these X25519 identities opens it."""
    try:
        head, rest = wrap.split(b"\n--- ", 1)
        mac, payload = rest.split(b"\n", 1)
        need(head.startswith(b"age-encryption.org/v1\n-> "), "it is no age file")
        for stanza in head.split(b"\n-> ")[1:]:
            (kind, *arguments), *body = stanza.split(b"\n")[0].split(b" "), *stanza.split(b"\n")[1:]
            for scalar in scalars if kind == b"X25519" else ():
                share = unbase64(arguments[0])
                key = hkdf(agree(scalar, share), share + public_half(scalar), b"age-encryption.org/v1/X25519")
                try:
                    file_key = ChaCha20Poly1305(key).decrypt(bytes(12), unbase64(b"".join(body)), None)
                except InvalidTag:
                    continue
                again = hmac.digest(hkdf(file_key, None, b"header"), head + b"\n---", hashlib.sha256)
                need(hmac.compare_digest(again, unbase64(mac)), "the header of an age file was changed")
                key = hkdf(file_key, payload[:16], b"payload")
                return ChaCha20Poly1305(key).decrypt(bytes(11) + b"\x01", payload[16:], None)
    except (ValueError, IndexError, InvalidTag) as error:
        raise Bad(f"an age file is damaged: {error!r}") from None
    return None


def identity_scalar(text):
    """The scalar in AGE-SECRET-KEY-1…, which is Bech32 (BIP 173)."""
    alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    prefix, _, data = text.strip().lower().rpartition("1")
    need(prefix == "age-secret-key-" and len(data) == 58 and set(data) <= set(alphabet), "it is no age identity")
    values, check = [alphabet.index(c) for c in data], 1
    for value in [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + values:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, mask in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= mask if top >> bit & 1 else 0
    need(check == 1, "an age identity is mistyped")
    return int("".join(f"{value:05b}" for value in values[:-6])[:256], 2).to_bytes(32, "big")


def key_bytes(given):
    """32 bytes: the file of that name, or else the text itself; as they are or in hex."""
    text = open(given, "rb").read() if os.path.exists(given) else given.encode()
    key = text if len(text) == 32 else bytes.fromhex(text.decode().strip())
    need(len(key) == 32, "a key has not 32 bytes")
    return key


def shown(name):
    """Everything but printable ASCII is escaped, so that a name can neither hide nor move the cursor."""
    return re.sub(rb"[^ -\[\]-~]", lambda byte: b"\\x%02x" % byte[0][0], name).decode()


def make(kind, path, content, size, link):
    """Makes a file, directory, symlink, hard link or fifo. No link is followed, and what is there is never replaced."""
    if kind == "file":
        with open(path, "xb") as file:
            try:
                for stretch in content:
                    file.write(stretch) if isinstance(stretch, bytes) else file.seek(stretch, os.SEEK_CUR)
                file.truncate(size)
            except BaseException:
                os.unlink(path)  # half a file must not look like one
                raise
    elif kind == "directory":
        os.makedirs(path, 0o700, exist_ok=True)
    elif kind == "symlink":
        os.symlink(link, path)
    elif kind == "hard link":
        os.link(link, path, follow_symlinks=False)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    else:
        raise Bad(f"a {kind} is not restored")


def dress(path, entry):
    """Owner, attributes, mode and time, in this order: each undoes some of those after it."""
    if os.geteuid() == 0:
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    for name, value in entry.xattrs or ():
        os.setxattr(path, name, value, follow_symlinks=False)
    if not os.path.islink(path):
        os.chmod(path, entry.mode)
    seconds, nanoseconds = entry.modified
    os.utime(path, ns=(0, seconds * 10**9 + nanoseconds), follow_symlinks=False)
