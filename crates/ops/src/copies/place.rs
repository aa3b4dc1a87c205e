//! In which domains a repository is: what the configuration says, and what can be seen of its store and its keys.

use crate::config::{Config, DomainKind, Domains, RepositoryConfig, StoreConfig};
use hikae_model::FamilyId;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The domains of a repository. What is declared goes before what can be seen; on a disk of this machine it is where this
/// machine is; of `family`, its key is known.
pub fn domains_of(
    config: &RepositoryConfig,
    here: &Domains,
    host: &str,
    family: Option<FamilyId>,
) -> Domains {
    let mut domains = Domains::new();
    match &config.store {
        StoreConfig::Directory(path) => of_directory(path, here, host, &mut domains),
        StoreConfig::S3(s3) => {
            let server = s3.endpoint.as_deref().map_or("amazonaws.com", host_of);
            domains.insert(DomainKind::Machine, server.to_owned());
            domains.insert(DomainKind::Disk, format!("bucket {} of {server}", s3.bucket));
            // Whoever owns the server owns its buckets, unless somebody knows better.
            domains.insert(DomainKind::Account, server.to_owned());
        }
        StoreConfig::Sftp(sftp) => {
            domains.insert(DomainKind::Machine, sftp.host.clone());
            domains.insert(DomainKind::Disk, format!("disk of {}", sftp.host));
            domains.insert(DomainKind::Account, sftp.host.clone());
        }
    }
    if let Some(family) = family {
        domains.insert(DomainKind::Key, family.short());
    }
    domains.extend(config.domains.iter().map(|(kind, name)| (*kind, name.clone())));
    domains
}

/// Where the sources are: on this machine, as far as the configuration does not say otherwise.
pub fn domains_of_here(config: &Config, host: &str) -> Domains {
    let mut domains = Domains::from([(DomainKind::Machine, host.to_owned())]);
    domains.extend(disk_of(Path::new("/"), host).map(|disk| (DomainKind::Disk, disk)));
    domains.extend(config.here.iter().map(|(kind, name)| (*kind, name.clone())));
    domains
}

/// The host of an address such as `https://host:port`.
fn host_of(endpoint: &str) -> &str {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn of_directory(path: &Path, here: &Domains, host: &str, domains: &mut Domains) {
    match mounted_from(path) {
        // Another machine serves it.
        Some((server, share)) => {
            domains.insert(DomainKind::Machine, server);
            domains.insert(DomainKind::Disk, share);
        }
        None => {
            domains.insert(DomainKind::Machine, host.to_owned());
            domains.extend(here.iter().map(|(kind, name)| (*kind, name.clone())));
            domains.extend(disk_of(path, host).map(|disk| (DomainKind::Disk, disk)));
        }
    }
}

/// The disk that holds a path of this machine, by the number that the system gives it.
fn disk_of(path: &Path, host: &str) -> Option<String> {
    let device = std::fs::metadata(path).ok()?.dev();
    Some(format!("{host} {}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
}

/// The server and the share, if a path is on what is mounted over a network.
fn mounted_from(path: &Path) -> Option<(String, String)> {
    let path = std::fs::canonicalize(path).ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?, words.next()?))
    });
    let holding = fields.filter(|(_, point, _)| path.starts_with(point));
    let (share, _, kind) = holding.max_by_key(|(_, point, _)| point.len())?;
    let is_remote = ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph"].contains(&kind);
    let server = share.trim_start_matches("//").split([':', '/']).next().unwrap_or(share);
    is_remote.then(|| (server.to_owned(), share.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_host() {
        for (endpoint, host) in [
            ("https://s3.example.com", "s3.example.com"),
            ("http://[::1]:9000", "[::1]"),
            ("https://minio.lan:9000/", "minio.lan"),
        ] {
            assert_eq!(host_of(endpoint), host);
        }
    }
}
