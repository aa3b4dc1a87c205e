//! The program as people and scripts meet it: real runs of the binary in homes of their own.

mod bucket;
mod configuration;
mod copying;
mod damage;
mod drills;
mod dry_run;
mod dumps;
mod exit_codes;
mod exports;
mod faults;
mod guide;
mod home;
mod keys;
mod machine_output;
mod pg;
mod postgresql;
mod protecting;
mod recovering;
mod restoring;
mod retention;
mod rows;
mod secrets;
mod sftp;
mod signals;
mod space;
mod wording;
