//! The repository over real and faulty stores.

mod canary;
mod concurrency;
mod damage;
mod damage_on_disk;
mod damaged_log;
mod decoder;
mod errors;
mod evidence;
mod faults;
mod forget;
mod keys;
mod lab;
mod lost_records;
mod newer;
mod orphans;
mod panics;
mod parsers;
mod prune;
mod repair;
mod rights;
mod round_trip;
mod seals;
mod small;
mod stale;
mod testdata;
mod world;
