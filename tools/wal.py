"""Write-ahead log in a hikae repository: section 14 of docs/format.md, for decode.py."""
import os, struct
from types import SimpleNamespace as Record

from blake3 import blake3
from plain import digest, need, parse_record
from records import RECORDS

WAL, CONTENT = 8, 1
LOWER = {"partial", "backup", "history"}


class WriteAheadLog:
    """What a repository knows of it. Needs its keys, sessions and writers, and `take_frames` for frame records."""

    def wal_names(self):
        """The names of its objects, by cluster, timeline and file."""
        names = []
        for top, _, files in os.walk(os.path.join(self.path, "wal")):
            names += [os.path.relpath(os.path.join(top, file), self.path) for file in files]
        return sorted(names)

    def wal_head(self, name):
        """The head of an object, its frames, and what is sealed in them."""
        stored, (_, system, timeline, *parts, file) = self.read(name), name.split("/")
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
