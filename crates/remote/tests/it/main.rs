//! Stores over the network, on real servers.

mod elsewhere;
mod faults;
mod keys;
mod lock;
mod s3;
mod sftp;
mod weak;

use hikae_model::Cx;
use hikae_remote::{Bucket, Retry, S3Identity, S3Key, S3Login, S3Settings, S3Surroundings};
use hikae_testkit::{SeaweedFs, system_cx};
use std::sync::Arc;
use std::time::Duration;

/// A bucket of the server at `endpoint`.
fn bucket_at(endpoint: &str, name: &str, prefix: &str) -> Bucket {
    let key = S3Key {
        access_key: SeaweedFs::ACCESS_KEY.to_owned(),
        secret_key: SeaweedFs::SECRET_KEY.to_owned().into(),
    };
    bucket_as(&login(S3Identity::Key(key)), endpoint, name, prefix, &system_cx())
}

/// The same, as somebody.
fn bucket_as(login: &S3Login, endpoint: &str, name: &str, prefix: &str, cx: &Cx) -> Bucket {
    let settings = S3Settings {
        bucket: name.to_owned(),
        prefix: prefix.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        path_style: true,
        ca: None,
        lock: None,
    };
    Bucket::new(&settings, login, cx).unwrap()
}

/// Who is found there, in surroundings that say nothing.
fn login(identity: S3Identity) -> S3Login {
    let around = S3Surroundings {
        variables: Arc::new(|_| None),
        home: None,
        run: Arc::new(|_| Err("nothing is run".to_owned())),
    };
    S3Login { identity, role: None, sts_endpoint: None, around }
}

/// The text of an error with all its causes.
fn told(error: &dyn std::error::Error) -> String {
    hikae_model::with_causes(error)
}

/// Patient enough for a test.
fn retry() -> Retry {
    Retry {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(200),
        deadline: Duration::from_secs(1),
    }
}
