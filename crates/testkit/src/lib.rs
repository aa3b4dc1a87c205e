//! For tests: contract suites, faulty stores, a clock that is set by hand, trees of files to grow and compare.
//!
//! No crate depends on this one but for its tests and benchmarks.

pub mod crash_states;
pub mod cx;
pub mod disk_trace;
pub mod faulty;
mod http;
mod http_proxy;
mod not_run;
mod openssh;
mod postgresql;
pub mod random_tree;
mod rclone;
pub mod s3_fault;
mod sabotage;
mod seaweed;
pub mod stepper;
pub mod store_contract;
mod tcp_proxy;
pub mod tree;

pub use cx::{Seed, TestClock, TestCx, TestRandom, system_clock, system_cx, test_cx};
pub use faulty::{Call, Failure, Fault, FaultyStore, Verb};
pub use http_proxy::{Asked, Fate, HttpProxy};
pub use not_run::not_run;
pub use openssh::OpenSsh;
pub use postgresql::{named_postgresql, postgresql};
pub use rclone::Rclone;
pub use s3_fault::S3Fault;
pub use sabotage::sabotage;
pub use seaweed::SeaweedFs;
pub use tcp_proxy::TcpProxy;
