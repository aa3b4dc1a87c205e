#!/usr/bin/env python3
"""Reads a hikae repository without hikae: an independent decoder, written from docs/format.md, whose sections it names.

Needs Python 3.9 and the packages blake3, cryptography (44 or later, for Argon2id) and zstandard. The repository is a directory;
copy one out of object storage first. Nothing is written but what `restore` restores.
"""
import argparse, datetime, functools, itertools, json, os, struct, sys
from types import SimpleNamespace as Record

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from plain import (DAMAGE, Bad, agree, check_signature, derive, digest, dress, fit_record, identity_scalar, key_bytes, keyed,
                   make, need, open_age, pack_u64, parse_record, public_half, shown, take_cbor, take_varint, to_cbor)
from records import CHANGES, KINDS, RECORDS
from wal import WriteAheadLog

# --- Section 2: CBOR and records

FOOTER, INDEX, SNAPSHOT, LOG_ENTRY, EPOCH, EVIDENCE = 1, 2, 3, 4, 6, 7
CONTENT, METADATA = 1, 2

fit = functools.partial(fit_record, RECORDS)
parse = functools.partial(parse_record, RECORDS)

# --- Section 3: keys and seals

def unseal(key, algorithm, salt, aad, sealed):
    need(algorithm in (1, 2), "an unknown algorithm seals it")
    once = keyed(derive("hikae 1 seal key", key), salt)
    try:
        plain = (AESGCM if algorithm == 1 else ChaCha20Poly1305)(once).decrypt(bytes(12), sealed, aad)
    except InvalidTag:
        raise Bad("its seal is broken") from None
    again = keyed(derive("hikae 1 seal salt", key), pack_u64(len(aad)) + aad + plain)
    need(again[:16] == salt, "its salt is not that of its bytes")
    return plain

class Keys:
    """What a slot or the recovery sheet gives: metadata keys always, root key and first identity if it is an owner's."""

    def __init__(self, secret=None, id_root=None, seals=None):
        self.root = self.identity = None
        if secret:
            id_root = derive("hikae 1 id root", secret)
            seals = [(1, derive("hikae 1 metadata key", secret + struct.pack("<I", 1)))]
            root = Ed25519PrivateKey.from_private_bytes(derive("hikae 1 root signing key", secret))
            self.root = root.public_key().public_bytes_raw()
            self.identity = derive("hikae 1 first identity", secret)
        need(id_root and seals, "the slot holds no key")
        self.seals = dict(seals)
        self.family = derive("hikae 1 family id", id_root)[:16]
        self.blob_keys = {CONTENT: derive("hikae 1 content blob id", id_root),
                          METADATA: derive("hikae 1 metadata blob id", id_root)}
        self.hash_key = derive("hikae 1 manifest hash", id_root)

    def open_object(self, stored, object_class, context=b""):
        """The body of an envelope, and who signed it."""
        need(len(stored) >= 140 and stored[:5] == b"HIKAE", "it is not an object of hikae")
        need(stored[5] == 1 and stored[6] == object_class, "it is an object of another version or class")
        aad, number = stored[:12] + self.family + context, struct.unpack_from("<I", stored, 8)[0]
        plain = unseal(self.seals[number], stored[7], stored[12:28], aad, stored[28:])
        body, writer, signature = plain[:-96], plain[-96:-64], plain[-64:]
        check_signature(writer, b"hikae 1 object" + pack_u64(len(aad)) + aad + digest(body), signature)
        return body, writer

    def session_key(self, session, epoch_key):
        """The key of a session's frames of content (section 7)."""
        shared = agree(epoch_key, session.ephemeral) + session.ephemeral + public_half(epoch_key)
        aad = self.family + session.id
        return unseal(derive("hikae 1 session wrap", shared), session.algorithm, session.salt, aad, session.wrapped)

    def open_frame(self, key, frame, stored):
        """The blobs of a frame, joined (section 8)."""
        need(frame.plain_bytes <= 64 << 20, "a frame is too long")
        aad = self.family + bytes([1, frame.blob_class]) + frame.session[0] + struct.pack("<I", frame.number)
        plain = unseal(key, frame.algorithm, frame.salt, aad, stored)
        if frame.codec == 1:
            size = zstandard.get_frame_parameters(plain).content_size
            need(size == frame.plain_bytes, "a frame declares another length")
            plain = zstandard.ZstdDecompressor().decompress(plain, allow_extra_data=False)
        need(len(plain) == frame.plain_bytes, "a frame has another length")
        return plain

# --- Section 5: key slots

def open_slot(stored, unlock):
    """What a key slot holds; None if it is no slot or not ours."""
    if stored[:7] != b"HIKAE\x01\x10":
        return None
    slot, key = parse("slot", stored[7:]), None
    if slot.kind == 1 and unlock.passphrase is not None:
        need(slot.costs and slot.kdf_salt, "a slot lacks its costs")
        memory, passes, lanes = slot.costs
        need(8 <= memory <= 4 << 20 and 1 <= passes <= 64 and 1 <= lanes <= 64, "the costs of a slot are beyond reason")
        stretch = Argon2id(salt=slot.kdf_salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
        key = stretch.derive(unlock.passphrase)
    elif slot.kind == 2:
        key = unlock.key_file
    elif slot.kind == 3 and slot.wrap is not None:
        key = open_age(slot.wrap, unlock.identities)
    try:
        plain = key and unseal(key, slot.algorithm, slot.salt, stored[:7] + bytes([slot.kind]), slot.sealed)
    except Bad:
        return None
    return plain and parse("payload", plain)

def hash_core(core):
    """What the slots vouch for (section 4)."""
    fields = [core["format"], *(bytes.fromhex(core[name]) for name in ("repository", "family", "root")),
              *(core[name] for name in ("recipients", "created", "release", "file_chunks", "row_pieces"))]
    return digest(b"hikae 1 core" + to_cbor(dict(enumerate(fields))))

# --- The repository

class Frame(Record):
    """A frame record (section 8)."""
    __hash__ = object.__hash__
    NAMES = "session blob_class codec algorithm number offset stored_bytes plain_bytes n_blobs salt".split()

def name_of(session):
    """Nobody else can sign a session of this writer, whatever id it takes."""
    return session.id, session.writer

def take_frames(records, sessions):
    for values in struct.iter_unpack("<IBBBxIIIII16s", records):
        frame = Frame(**dict(zip(Frame.NAMES, values)), blobs=[])
        need(frame.blob_class in (1, 2) and frame.codec in (0, 1), "a frame record is none")
        frame.session = name_of(sessions[frame.session])
        yield frame

class Repository(WriteAheadLog):
    take_frames = staticmethod(take_frames)

    def __init__(self, path, unlock):
        self.path, self.unlock, self.places, self.packs, self.sessions, self.epochs = path, unlock, {}, {}, {}, {}
        stored = self.read("hikae.json")
        self.header = json.loads(stored)
        core = self.header["core"]
        need(core["format"] == 1, f"the repository has format {core['format']}")
        self.keys, core_hash = self.find_keys()
        need(core_hash in (None, hash_core(core)), "hikae.json is not what the slot vouches for")
        self.id, root, family = (bytes.fromhex(core[name]) for name in ("repository", "root", "family"))
        need(self.keys.family == family and self.keys.root in (None, root), "this is the key of another repository")
        self.identities = unlock.identities + ([self.keys.identity] if self.keys.identity else [])
        self.n, self.root = 0, root
        self.writers, self.snapshots, self.forgotten, self.indexes, self.epoch_objects, self.evidence = {}, {}, {}, {}, {}, {}
        self.hashes, self.runs, self.void, self.going, self.pruners = [digest(stored)], [], [], set(), set()
        self.fold_log()
        for name in self.epoch_objects.values():
            epoch = self.signed("epoch", *parse("(b,64)", self.open_named("keys", name, EPOCH)))
            self.epochs.setdefault(epoch.id, []).append(epoch)
        for name in self.indexes:
            self.add_index(self.open_named("index", name, INDEX))

    def read(self, name, start=0, length=-1):
        with open(os.path.join(self.path, name), "rb") as file:
            file.seek(start)
            return file.read(length)

    def open_named(self, directory, name, object_class, context=b""):
        stored = self.read(f"{directory}/{name.hex()}")
        need(digest(stored) == name, f"{directory}/{name.hex()} is not what its name says")
        return self.keys.open_object(stored, object_class, context)[0]

    def names(self, directory):
        path = os.path.join(self.path, directory)
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def find_keys(self):
        if self.unlock.recovery:
            return Keys(self.unlock.recovery), None
        for name in self.names("keys"):
            payload = open_slot(self.read(f"keys/{name}"), self.unlock)
            if payload:
                return Keys(payload.secret, payload.id_root, payload.seals), payload.core
        raise Bad("no key slot opens with this")

    # Section 12: the log

    def fold_log(self):
        names = self.names("log")
        need(names == [f"{n + 1:020}" for n in range(len(names))], "an entry of the log is missing")
        for name in names:
            try:
                self.apply(self.read(f"log/{name}"))
            except DAMAGE as error:
                raise Bad(f"log entry {name}: {error}") from None

    def apply(self, stored):
        self.n += 1
        body, writer = self.keys.open_object(stored, LOG_ENTRY, self.id + pack_u64(self.n))
        entry = parse("log", body)
        need(entry.n == self.n and entry.previous == self.hashes[-1], "it does not continue the log")
        self.hashes.append(digest(stored))
        number, payload = entry.change
        verb, right, kind = CHANGES[number] if number < len(CHANGES) else ("unknown", 8, "any")
        change = fit(kind, payload)
        rights, sources = (15, None) if writer == self.root else self.writers.get(writer, (0, None))
        if verb == "commit" and any(ref.id in self.forgotten for ref in change.snapshots):
            right |= 2
        foreign = verb == "commit" and sources is not None and any(ref.source not in sources for ref in change.snapshots)
        if rights & right != right or foreign or verb == "commit" and entry.run in self.runs:
            self.void.append(self.n)
        elif verb == "commit":
            self.going.difference_update(ref.id for ref in change.snapshots)
            self.snapshots.update((ref.id, self.forgotten.pop(ref.id, ref)) for ref in change.snapshots)
            self.indexes.update((name, self.n) for name in change.indexes)
            self.runs = (self.runs + [entry.run])[-256:]
        elif verb == "forget":
            there = [name for name in change.snapshots if name in self.snapshots]
            self.forgotten.update((name, self.snapshots.pop(name)) for name in there)
        elif verb == "prune":
            self.indexes.update((name, self.n) for name, _ in change.added)
            self.indexes = {name: n for name, n in self.indexes.items() if name not in change.removed}
            self.going.update(name for name in change.snapshots if name in self.forgotten)
        elif verb == "removed":
            for name in self.going.intersection(change.snapshots):
                self.going.remove(name)
                del self.forgotten[name]
        elif verb == "enrol":
            self.writers[change.writer] = change.rights, change.sources
            self.pruners.update([change.writer] if change.rights & 4 else [])
        elif verb == "distrust" and change in self.writers:
            self.writers[change] = 0, None
        elif verb == "epoch":
            self.epoch_objects[change.id] = change.object
        elif verb == "evidence":
            self.evidence[change.id] = change

    # Sections 7 to 9: sessions, packs, indexes

    def signed(self, kind, record, signature):
        """A record that its writer has signed."""
        value = parse(kind, record)
        check_signature(value.writer, b"hikae 1 %s" % kind.encode() + self.keys.family + record, signature)
        return value

    def add_sessions(self, head):
        for epoch in itertools.starmap(functools.partial(self.signed, "epoch"), head.epochs):
            self.epochs.setdefault((epoch.id, epoch.writer), []).append(epoch)
        sessions = [self.signed("session", *one) for one in head.sessions]
        self.sessions.update((name_of(session), session) for session in sessions)
        return sessions

    def add_index(self, body):
        packs_at = 16 + struct.unpack_from("<I", body)[0]
        sessions = self.add_sessions(parse("index", body[4:packs_at - 12]))
        n_packs, n_frames, n_blobs = struct.unpack_from("<III", body, packs_at - 12)
        frames_at = packs_at + 40 * n_packs
        blobs_at = frames_at + 48 * n_frames
        need(blobs_at + 44 * n_blobs == len(body), "the parts of an index do not add up")
        packs = list(struct.iter_unpack("<32sQ", body[packs_at:frames_at]))
        placed = list(struct.iter_unpack("<I44s", body[frames_at:blobs_at]))
        frames = list(take_frames(b"".join(frame for _, frame in placed), sessions))
        for frame, (pack, _) in zip(frames, placed):
            need(pack < n_packs, "an index names a pack that it does not list")
            frame.pack, size = packs[pack]
            self.packs.setdefault(frame.pack, (size, []))[1].append(frame)
        last = b""
        for blob, number, offset, length in struct.iter_unpack("<32sIII", body[blobs_at:]):
            need(last <= blob and number < n_frames, "the blobs of an index are not in order")
            last = blob
            frames[number].blobs.append((offset, blob, length))
            self.places.setdefault(blob, []).append((frames[number], offset, length))
        for frame in frames:
            frame.blobs.sort()

    def footer(self, pack):
        """The frames that the footer of a whole pack lists."""
        need(pack[-8:] == b"PACK0001", "a pack has no footer")
        start = len(pack) - 12 - struct.unpack_from("<I", pack, len(pack) - 12)[0]
        need(start >= 0, "the footer of a pack is too long")
        footer = parse("footer", self.keys.open_object(pack[start:-12], FOOTER)[0])
        blobs, frames = struct.iter_unpack("<32sI", footer.blobs), []
        for frame in take_frames(footer.frames, self.add_sessions(footer)):
            at = 0
            for blob, length in itertools.islice(blobs, frame.n_blobs):
                frame.blobs.append((at, blob, length))
                at += length
            frames.append(frame)
        need(next(blobs, None) is None and all(len(one.blobs) == one.n_blobs for one in frames), "its blobs do not add up")
        return frames

    @functools.lru_cache(None)
    def session_key(self, name):
        session = self.sessions[name]
        # The epoch as the session's own writer began it, or as the log names it.
        for epoch in self.epochs.get((session.epoch, session.writer), []) + self.epochs.get(session.epoch, []):
            key = open_age(epoch.wrap, self.identities)
            if key:
                need(public_half(key) == epoch.public, "an epoch holds the key of another")
                return self.keys.session_key(session, key)
        raise Bad("this key opens metadata only, not contents")

    @functools.lru_cache(8)
    def frame(self, frame):
        name, number = frame.pack.hex(), self.sessions[frame.session].key_number
        stored = self.read(f"packs/{name[:2]}/{name}", frame.offset, frame.stored_bytes)
        key = self.keys.seals[number] if frame.blob_class == METADATA else self.session_key(frame.session)
        return self.keys.open_frame(key, frame, stored)

    def blob(self, blob_class, name):
        why = "no pack has it"
        for frame, offset, length in self.places.get(name, ()):
            try:
                blob = self.frame(frame)[offset:offset + length]
                need(frame.blob_class == blob_class and keyed(self.keys.blob_keys[blob_class], blob) == name, "it is another")
                return blob
            except DAMAGE as error:
                why = error
        raise Bad(f"blob {name.hex()}: {why}")

    # Sections 10 and 11: snapshots, listings, contents

    def entries(self, snapshot):
        last, files, n_entries = [], set(), 0
        for first, hunk, n_hunk in parse("*(b,32,n)", self.blob(METADATA, snapshot.listing)) if snapshot.listing else ():
            data, at, n_before = self.blob(METADATA, hunk), 0, n_entries
            while at < len(data):
                value, at = take_cbor(data, at)
                entry = fit("entry", value)
                names = entry.path.split(b"/")
                need(b"\0" not in entry.path and not {b"", b".", b".."} & set(names), "a path leaves the tree")
                need(last < names and (n_entries > n_before or entry.path == first), "a listing is not in order")
                need(0 < entry.kind < len(KINDS) and entry.mode < 1 << 12, "an entry is of an unknown kind")
                there = [one is not None for one in (entry.size, entry.link, entry.device)]
                need(there == [entry.kind == 1, entry.kind in (3, 4), entry.kind in (7, 8)], "an entry is not of its kind")
                need((entry.inline is not None) + (entry.parts is not None) == (entry.kind == 1), "it has not one content")
                need(entry.hash is None or entry.kind == 1, "an entry that is no file has a hash")
                need(entry.kind != 4 or entry.link in files, "a hard link is to no file before it")
                files.update([entry.path] if entry.kind == 1 else ())
                last, n_entries = names, n_entries + 1
                yield entry
            need(n_entries - n_before == n_hunk, "a hunk has another number of entries")
        need(n_entries == snapshot.entries, "a snapshot has another number of entries")

    def extents(self, data):
        """Of each extent the blob (None for a hole), where in it, and how long."""
        record, at = parse("extents", data), 0
        blobs = [record.blobs[at:at + 32] for at in range(0, len(record.blobs), 32)]
        need(len(record.blobs) % 32 == 0 and len(record.pieces) in (0, len(record.blobs)), "the blobs of a map do not add up")
        while at < len(record.extents):
            place, at = take_varint(record.extents, at)
            need(place <= len(blobs), "a map names a blob that it does not list")
            offset, at = take_varint(record.extents, at) if place else (0, at)
            length, at = take_varint(record.extents, at)
            yield blobs[place - 1] if place else None, offset, length

    def content(self, entry):
        """What a file holds, stretch by stretch: bytes, or the length of a hole."""
        total, whole = 0, blake3(key=self.keys.hash_key)
        parts = [(None, None)] if entry.inline is not None else entry.parts
        for part, part_bytes in parts:
            before = total
            for blob, offset, length in self.extents(self.blob(METADATA, part) if part else entry.inline):
                total += length
                need(total <= entry.size, "a file is longer than it should be")
                if blob:
                    stretch = self.blob(CONTENT, blob)[offset:offset + length]
                    need(len(stretch) == length, "a map reaches beyond its blob")
                    whole.update(stretch)
                    yield stretch
                else:
                    for done in range(0, length if entry.hash else 0, 1 << 20):
                        whole.update(bytes(min(1 << 20, length - done)))
                    yield length
            need(part_bytes in (None, total - before), "a part of a map has another length")
        need(total == entry.size, "a file is shorter than it should be")
        need(entry.hash in (None, whole.digest()), "a file has another hash")

    def find(self, wanted):
        """A snapshot by the first digits of its id, or the newest of a source."""
        found = sorted((ref.moment, ref.id) for ref in self.snapshots.values() if ref.source == wanted)[-1:]
        found = found or [(0, name) for name in {**self.snapshots, **self.forgotten} if name.hex().startswith(wanted)]
        need(len(found) == 1, f"there is {'more than one' if found else 'no'} snapshot {wanted}")
        return parse("snapshot", self.open_named("snapshots", found[0][1], SNAPSHOT))

# --- Commands

def list_snapshots(repo):
    for ref in sorted(repo.snapshots.values(), key=lambda ref: ref.moment):
        moment = datetime.datetime.fromtimestamp(ref.moment / 1e6, datetime.timezone.utc)
        print(ref.id.hex(), moment.strftime("%Y-%m-%dT%H:%M:%SZ"), "complete" if ref.complete else "incomplete", ref.source)

def show(repo, wanted):
    for entry in repo.entries(repo.find(wanted)):
        seen = {"path": shown(entry.path), "kind": KINDS[entry.kind], "mode": f"{entry.mode:04o}",
                "owner": [entry.uid, entry.gid], "modified": entry.modified}
        if entry.link is not None:
            seen["link"] = shown(entry.link)
        if entry.device:
            seen["device"] = entry.device
        if entry.xattrs:
            seen["xattrs"] = [[shown(name), value.hex()] for name, value in entry.xattrs]
        if entry.kind == 1:
            whole = blake3()
            for stretch in repo.content(entry):
                whole.update(stretch if isinstance(stretch, bytes) else bytes(stretch))
            seen.update(size=entry.size, blake3=whole.hexdigest())
        print(json.dumps(seen))

def check_pack(repo, name, size, frames):
    pack = repo.read(f"packs/{name.hex()[:2]}/{name.hex()}")
    need(len(pack) == size and digest(pack) == name, "its bytes are not those of its name")
    for frame, listed in itertools.zip_longest(frames, repo.footer(pack)):
        need(listed and {**vars(listed), "pack": name} == vars(frame), "index and footer differ")
        if frame.blob_class == METADATA or repo.identities:
            plain = repo.frame(frame)
            for offset, blob, length in frame.blobs:
                need(keyed(repo.keys.blob_keys[frame.blob_class], plain[offset:offset + length]) == blob, "a blob is another")

def check(repo):
    """Reads everything that counts. The keys, the log and the index have held already."""
    def check_snapshot(name):
        for entry in repo.entries(repo.find(name.hex())):
            sum(1 for _ in (repo.content(entry) if entry.kind == 1 and repo.identities else ()))
    def check_evidence(name):
        said = repo.evidence[name]
        found = parse("evidence", repo.open_named("evidence", name, EVIDENCE, repo.id + said.snapshot))
        passed = found.checks and all(check.passed for check in found.checks)
        need((found.snapshot, bool(passed)) == (said.snapshot, said.passed), "the log says something else")
        need(repo.hashes[found.log_n] == found.log_hash, "it was made beside another log")
    def check_wal(name):
        sum(map(len, repo.wal_file(name))) if repo.identities else repo.wal_head(name)
    n_problems = 0
    for what, names, call in (("pack", repo.packs, lambda name: check_pack(repo, name, *repo.packs[name])),
                              ("snapshot", repo.snapshots, check_snapshot), ("evidence", repo.evidence, check_evidence),
                              ("wal", repo.wal_names(), check_wal)):
        for name in names:
            try:
                call(name)
            except DAMAGE as error:
                n_problems += 1
                print(f"{what} {name if what == 'wal' else name.hex()}: {error}")
    contents = "contents read" if repo.identities else "contents not read: this key opens metadata only"
    print(f"{repo.n} log entries ({len(repo.void)} void), {len(repo.packs)} packs, {len(repo.places)} blobs, "
          f"{len(repo.snapshots)} snapshots, {len(repo.wal_names())} files of write-ahead log, {contents}, {n_problems} problems")
    return n_problems

def restore(repo, wanted, directory):
    """Into DIR, which is new or empty: so what stands below it is ours, and no link that we made is walked through."""
    os.makedirs(directory, exist_ok=True)
    need(not os.listdir(directory), f"{directory} is not empty")
    top, kinds, directories, n_problems = os.fsencode(directory), {}, [], 0
    for entry in repo.entries(repo.find(wanted)):
        path, names = os.path.join(top, entry.path), entry.path.split(b"/")
        try:
            for above in map(b"/".join, (names[:n] for n in range(1, len(names)))):
                need(kinds.setdefault(above, 2) == 2, "it stands below what is no directory")
                os.makedirs(os.path.join(top, above), 0o700, exist_ok=True)
            kinds[entry.path] = entry.kind
            link = os.path.join(top, entry.link) if entry.kind == 4 else entry.link
            make(KINDS[entry.kind], path, repo.content(entry), entry.size, link)
            if entry.kind == 2:
                directories.append((path, entry))
            elif entry.kind != 4:
                dress(path, entry)
        except DAMAGE as error:
            n_problems += 1
            print(shown(entry.path), error, sep=": ", file=sys.stderr)
    for path, entry in reversed(directories):
        dress(path, entry)
    return n_problems

def wal(repo, name=None, path=None):
    """Lists the files of write-ahead log, or restores one to a new file."""
    if name is None:
        for one in repo.wal_names():
            print(one, repo.wal_head(one)[0].length)
    else:
        make("file", os.fsencode(path), repo.wal_file(name), repo.wal_head(name)[0].length, None)

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("repo", metavar="REPO")
    for option, meant in (("--key-file", "32 bytes, or 64 hex digits"), ("--passphrase-file", "in its first line"),
                          ("--recovery", "the secret in hex, or its file"), ("--identity", "AGE-SECRET-KEY-1… lines")):
        parser.add_argument(option, metavar="F", help=meant)
    parser.add_argument("command", choices=["list", "check", "restore", "show", "wal"])
    parser.add_argument("arguments", metavar="SNAPSHOT|WAL [TARGET]", nargs="*")
    given = parser.parse_args()
    try:
        passphrase = given.passphrase_file and open(given.passphrase_file, "rb").readline().rstrip(b"\r\n")
        lines = open(given.identity).read().split("\n") if given.identity else ()
        repo = Repository(given.repo, Record(
            passphrase=passphrase, key_file=given.key_file and key_bytes(given.key_file),
            recovery=given.recovery and key_bytes(given.recovery),
            identities=[identity_scalar(line) for line in lines if line.strip() and not line.startswith("#")]))
        commands = {"list": list_snapshots, "check": check, "restore": restore, "show": show, "wal": wal}
        sys.exit(1 if commands[given.command](repo, *given.arguments) else 0)
    except DAMAGE as error:
        sys.exit(f"decode.py: {error}")

if __name__ == "__main__":
    main()
