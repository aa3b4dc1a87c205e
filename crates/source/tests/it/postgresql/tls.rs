//! TLS: used as it is asked for, and tied to the proof of the password.

use super::*;
use hikae_model::{Advise as _, ErrorCode};
use hikae_source::postgresql::Secret;

/// Makes an authority and a server's certificate for 127.0.0.77 in `directory`; the common name is for libpq
/// before 15, which looks at no address elsewhere. False without openssl.
pub(super) fn make_certificates(directory: &std::path::Path) -> bool {
    let extensions = directory.join("extensions");
    std::fs::write(&extensions, "subjectAltName=IP:127.0.0.77\n").unwrap();
    [
        "req -x509 -days 2 -nodes -newkey rsa:2048 -subj /CN=authority -keyout ca.key -out ca.crt",
        "req -new -nodes -newkey rsa:2048 -subj /CN=127.0.0.77 -keyout server.key -out server.csr",
        "x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile extensions -out server.crt",
    ]
    .iter()
    .all(|arguments| {
        let mut command = std::process::Command::new("openssl");
        let output = command.args(arguments.split(' ')).current_dir(directory).output();
        output.is_ok_and(|output| output.status.success())
    })
}

/// TLS as `sslmode` says, for us and for the programs that we start.
#[test]
fn tls_is_used_and_certificates_are_looked_at() {
    let cluster = start(&[("listen_addresses", "127.0.0.77,127.0.0.78")]);
    let directory = cluster.directory();
    if !make_certificates(directory) {
        return hikae_testkit::not_run("openssl makes no certificates here");
    }
    for file in ["server.crt", "server.key"] {
        give(&directory.join(file), &cluster);
    }
    let hba = "local all all trust\nhostssl all tls_user all scram-sha-256\nhostssl all trusted all trust\n";
    std::fs::write(directory.join("hba.conf"), hba).unwrap();
    let mut admin = enter(cluster.connection(), "postgres", "postgres");
    for sql in [
        "CREATE ROLE trusted LOGIN; CREATE ROLE tls_user LOGIN PASSWORD 'secret'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO tls_user;
         CREATE TABLE t (a int); GRANT SELECT ON t TO tls_user",
        &format!("ALTER SYSTEM SET ssl_cert_file = '{}'", directory.join("server.crt").display()),
        &format!("ALTER SYSTEM SET ssl_key_file = '{}'", directory.join("server.key").display()),
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    ] {
        admin.batch_execute(sql).unwrap();
    }
    for _ in 0..100 {
        if admin.query_one("SHOW ssl", &[]).unwrap().get::<_, String>(0) == "on" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let back_up_with = |words: &str| {
        let settings = PostgresqlSettings {
            program_directory: named_postgresql(),
            ..PostgresqlSettings::of(format!("user=tls_user dbname=postgres {words}"))
        };
        let secret = Some(Secret::new("secret".into()));
        back_up(&PostgresqlSource::new(settings, secret, environment()).unwrap())
    };
    let root = directory.join("ca.crt");
    let root = root.display();
    for words in [
        "host=127.0.0.77".to_owned(),
        "host=127.0.0.78 sslmode=require".to_owned(),
        format!("host=127.0.0.78 sslmode=require sslrootcert={root}"),
        format!("host=127.0.0.78 sslmode=verify-ca sslrootcert={root}"),
        format!("host=127.0.0.77 sslmode=verify-full sslrootcert={root}"),
        "host=127.0.0.77 channel_binding=require".to_owned(),
    ] {
        let kept = back_up_with(&words).unwrap_or_else(|error| panic!("{error} with {words}"));
        assert_eq!(kept.rows("public", "t"), Some(0), "{words}");
    }
    for words in [
        "host=127.0.0.77 sslmode=disable".to_owned(),
        "host=127.0.0.77 sslmode=verify-full".to_owned(),
        "host=127.0.0.77 sslmode=verify-ca".to_owned(),
        "host=127.0.0.77 channel_binding=require user=trusted".to_owned(),
        format!("host=127.0.0.78 sslmode=verify-full sslrootcert={root}"),
        format!("host=127.0.0.77 sslmode=verify-ca sslrootcert={}", directory.join("server.key").display()),
    ] {
        assert!(back_up_with(&words).is_err(), "{words}");
    }
    // Somebody in between, with a certificate that nobody looks at, passes everything on.
    let impostor = impostor(directory, "127.0.0.77", cluster.connection().port);
    let error = back_up_with(&format!("host=127.0.0.1 port={impostor} sslmode=require")).err().unwrap();
    assert_eq!(error.code(), ErrorCode::Permission, "{error}");
}

/// Listens on a port of 127.0.0.1 with the server's key and another certificate of it, and passes on to the server what
/// it hears, both ways under TLS.
fn impostor(directory: &std::path::Path, server: &'static str, server_port: u16) -> u16 {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use std::io::{Read as _, Write as _};
    let mut command = std::process::Command::new("openssl");
    let arguments =
        "req -x509 -days 2 -nodes -newkey rsa:2048 -subj /CN=impostor -keyout other.key -out other.crt";
    assert!(command.args(arguments.split(' ')).current_dir(directory).output().unwrap().status.success());
    let certificate = CertificateDer::from_pem_file(directory.join("other.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("other.key")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![certificate], key)
    .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("ca.crt")).unwrap()).unwrap();
    let onward = rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || -> io::Result<()> {
        const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
        let (mut client, _) = listener.accept()?;
        client.read_exact(&mut [0; 8])?;
        client.write_all(b"S")?;
        let mut victim = rustls::ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        while victim.is_handshaking() {
            victim.complete_io(&mut client)?;
        }
        let mut tcp = std::net::TcpStream::connect((server, server_port))?;
        tcp.write_all(&SSL_REQUEST)?;
        tcp.read_exact(&mut [0])?;
        let name = rustls::pki_types::ServerName::try_from(server).map_err(io::Error::other)?;
        let real = rustls::ClientConnection::new(Arc::new(onward), name).map_err(io::Error::other)?;
        // In turn: while proving who one is, nobody speaks before the other has.
        for stream in [&client, &tcp] {
            stream.set_read_timeout(Some(std::time::Duration::from_millis(10)))?;
        }
        let mut victim = rustls::StreamOwned::new(victim, client);
        let mut real = rustls::StreamOwned::new(real, tcp);
        let mut buffer = [0; 4096];
        loop {
            match victim.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => real.write_all(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match real.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => victim.write_all(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    });
    port
}
