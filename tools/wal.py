"""Write-ahead log in a hikae repository: section 14 of docs/format.md, for decode.py."""
import functools, os, struct
from types import SimpleNamespace as Record

from blake3 import blake3
from plain import DAMAGE, digest, need, parse_record
from records import RECORDS

WAL, WAL_BUNDLE, CONTENT = 8, 9, 1
LOWER = {"partial", "backup", "history"}


class WriteAheadLog:
    """What a repository knows of it. Needs its keys, sessions, writers and pruners, and `take_frames` for frame records."""

    def wal_names(self):
        """The names of its files, as of objects of their own, by cluster, timeline and file."""
        return sorted(self.wal_places())

    @functools.cache
    def wal_places(self):
        """Which bytes of which object each of them is. A bundle that does not open stands for itself: to read it says why."""
        singles, bundled = {}, {}
        for top, _, files in os.walk(os.path.join(self.path, "wal")):
            for name in [os.path.relpath(os.path.join(top, file), self.path) for file in files]:
                try:
                    bundled.update(self.wal_bundle(name) if "/bundles/" in name else {})
                except DAMAGE:
                    singles[name] = name, 0, -1
                if "/bundles/" not in name:
                    singles[name] = name, 0, -1
        return singles | bundled

    def wal_bundle(self, name):
        """What a bundle holds, by the name that each file has by itself."""
        stored, (_, system, timeline, _, file) = self.read(name), name.split("/")
        (first, last), named = file.split(".")[0].split("-"), file.split(".")[1]
        need(digest(stored).hex() == named, "its bytes are not what its name says")
        at = 4 + struct.unpack_from("<I", stored)[0]
        need(at <= 1 << 20, "its head is too long")
        body, writer = self.keys.open_object(stored[4:at], WAL_BUNDLE, self.id + struct.pack("<Q", int(system)))
        head, places = parse_record(RECORDS, "wal_bundle", body), {}
        need(writer == self.root or writer in self.pruners, "who made it might never prune")
        need((head.system, f"{head.timeline:08x}") == (int(system), timeline), "it is not in its place")
        for high, low, length, _ in struct.iter_unpack("<IIIQ", head.members):
            places[f"wal/{system}/{timeline}/{timeline}{high:08x}{low:08x}"] = name, at, length
            at += length
        segments = [one[-24:] for one in places]
        need(segments == sorted(segments) and (segments[0], segments[-1]) == (first, last), "it holds other segments")
        need(at == len(stored) and len(head.members) == 20 * len(places), "its lengths do not add up")
        return places

    def wal_head(self, name):
        """The head of an object, its frames, and what is sealed in them."""
        stored, (_, system, timeline, *parts, file) = self.read(*self.wal_places()[name]), name.split("/")
        words = [word if word in LOWER else word.upper() for word in file.split(".")]
        need(len(system) == 20 and timeline == file[:8] and parts == ["parts"] * ("-" in file), "it is not in its place")
        end = 4 + struct.unpack_from("<I", stored)[0]
        need(end <= 1 << 20, "its head is too long")
        context = self.id + struct.pack("<Q", int(system)) + ".".join(words).encode()
        body, writer = self.keys.open_object(stored[4:end], WAL, context)
        head = parse_record(RECORDS, "wal", body)
        need((head.name, head.system) == (".".join(words), int(system)), "it is the head of another file")
        sessions = self.add_sessions(Record(sessions=[head.session], epochs=[head.epoch]))
        for known in (writer, sessions[0].writer):
            need(known == self.root or known in self.writers, "who wrote it is nobody whom the log knows")
        frames, at = list(self.take_frames(head.frames, sessions)), 0
        for frame in frames:
            need((frame.offset, frame.blob_class, frame.n_blobs) == (at, CONTENT, 0), "its frames do not follow each other")
            at += frame.stored_bytes
        need(at == len(stored) - end and sum(frame.plain_bytes for frame in frames) == head.length, "its lengths do not add up")
        need(digest(stored[end:]) == head.sealed, "its frames are not what was stored")
        return head, frames, stored[end:]

    def wal_file(self, name):
        """The bytes of a file, frame after frame; they are right once this has ended."""
        head, frames, sealed = self.wal_head(name)
        whole = blake3(key=self.keys.hash_key)
        for frame in frames:
            stored = sealed[frame.offset:frame.offset + frame.stored_bytes]
            plain = self.keys.open_frame(self.session_key(frame.session), frame, stored)
            whole.update(plain)
            yield plain
        need(whole.digest() == head.hash, "it is not the file that was stored")
