"""The tables of docs/format.md: the fields of each record, and what an entry of the log may be."""

# Fields of each record, numbered from 0: a name, then a kind. n natural number, i integer, t text, f flag, b bytes, a number
# so many bytes, *x list of x, (x,y) array of x and y, ?x may be missing; anything else is a record.
RECORDS = {
    "slot": "kind n  costs ?(n,n,n)  kdf_salt ?16  algorithm n  salt 16  wrap ?b  sealed b",
    "payload": "core 32  secret ?32  id_root ?32  seals ?*(n,32)  signer ?32",
    "epoch": "id 16  public 32  began i  recipients *t  wrap b  writer 32",
    "session": "id 16  writer 32  epoch 16  key_number n  ephemeral 32  algorithm n  salt 16  wrapped b",
    "footer": "sessions *(b,64)  epochs *(b,64)  frames b  blobs b  nonce 16",
    "index": "sessions *(b,64)  epochs *(b,64)  nonce 16",
    "snapshot": "source t  kind t  run 16  moment i  started i  finished i  host t  purpose t  description ?t  complete f"
                " n_problems n  problems ?32  listing ?32  entries n  bytes n  read_bytes n  added_bytes n  manifest ?32"
                " parent ?32  release t  nonce 16",
    "entry": "path b  kind n  mode n  uid n  gid n  modified (i,n)  changed (i,n)  inode n  size ?n  inline ?b  parts ?*(32,n)"
             " link ?b  device ?(n,n)  xattrs ?*(b,b)  hash ?32",
    "extents": "blobs b  pieces b  extents b",
    "log": "n n  previous 32  at i  run 16  change (n,any)",
    "commit": "snapshots *ref  indexes *32",
    "forget": "snapshots *32  reason t",
    "prune": "doomed *32  added *(32,32)  removed *32  sparse *(16,n)  soft_seconds n  snapshots *32",
    "removed": "packs *32  indexes *32  snapshots *32",
    "damaged": "packs *32  well *32  set_aside *32  taken_back *32",
    "log_floors": "floors *(n,n,n,n)  soft_seconds n  without *32",
    "enrol": "writer 32  rights n  group t  label t  sources ?*t",
    "ref": "id 32  source t  moment i  complete f",
    "slot_ref": "id 32  kind t  label t",
    "epoch_ref": "id 16  object 32",
    "evidence_ref": "id 32  snapshot 32  passed f",
    "evidence": "snapshot 32  source t  kind t  checks *check  phases *phase  recovery_microseconds n  recovered_moment i"
                " restored_bytes n  tools *(t,t)  release t  host t  log_n n  log_hash 32  started i  finished i",
    "wal": "name t  system n  session (b,64)  epoch (b,64)  frames b  hash 32  length n  sealed 32",
    "wal_bundle": "system n  timeline n  generation n  soft_seconds n  members b",
    "check": "name t  expected t  actual t  passed f",
    "phase": "name t  microseconds n",
}
# What an entry of the log may be: verb, the right that it needs (1 write, 2 forget, 4 prune, 8 administer), payload.
CHANGES = [("commit", 1, "commit"), ("forget", 2, "forget"), ("prune", 4, "prune"), ("removed", 4, "removed"),
           ("enrol", 8, "enrol"), ("distrust", 8, "32"), ("recipients", 8, "*t"), ("slot added", 8, "slot_ref"),
           ("slot removed", 8, "32"), ("epoch", 1, "epoch_ref"), ("evidence", 1, "evidence_ref"), ("feature", 8, "t"),
           ("damaged", 4, "damaged"), ("log floor", 4, "log_floors")]
KINDS = [None, "file", "directory", "symlink", "hard link", "fifo", "socket", "character device", "block device"]
