//! A real etcd and kube-apiserver on loopback, ended and removed when dropped.

use std::{
    env,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use kube::{Client, Config};
use tempfile::TempDir;

const TOKEN: &str = "test-admin";

/// See the module.
pub struct ApiServer {
    dir: TempDir,
    etcd: Child,
    server: Child,
    port: u16,
}

impl ApiServer {
    /// Starts both; fails when KUBEBUILDER_ASSETS names no directory with them.
    pub async fn start() -> Self {
        let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let assets = assets.expect("KUBEBUILDER_ASSETS must name the directory of etcd and kube-apiserver");
        let dir = tempfile::tempdir().unwrap();
        let [client_port, peer_port, port] = free_ports();
        let etcd = start_etcd(&assets, dir.path(), client_port, peer_port);
        let server = start_api_server(&assets, dir.path(), client_port, port);
        let started = Self { dir, etcd, server, port };
        started.wait().await;
        started
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        self.client_of(TOKEN)
    }

    /// A client with the rights of whoever this bearer token belongs to.
    pub fn client_of(&self, token: &str) -> Client {
        let url = format!("https://127.0.0.1:{}", self.port).parse().unwrap();
        let mut config = Config::new(url);
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.to_owned().into());
        Client::try_from(config).unwrap()
    }

    async fn wait(&self) {
        let client = self.client();
        for _ in 0..600 {
            let request = axum::http::Request::get("/readyz").body(Vec::new()).unwrap();
            if client.request_text(request).await.is_ok_and(|text| text == "ok") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = fs::read_to_string(self.dir.path().join("kube-apiserver.log")).unwrap_or_default();
        panic!("the API server does not become ready:\n{}", &log[log.len().saturating_sub(4000)..]);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.etcd] {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Ports that nobody listens on now.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn start_etcd(assets: &Path, dir: &Path, client_port: u16, peer_port: u16) -> Child {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let log = File::create(dir.join("etcd.log")).unwrap();
    Command::new(assets.join("etcd"))
        .arg(format!("--data-dir={}", dir.join("etcd").display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"))
        .arg("--unsafe-no-fsync")
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("etcd must be in KUBEBUILDER_ASSETS")
}

fn start_api_server(assets: &Path, dir: &Path, etcd_port: u16, port: u16) -> Child {
    fs::write(dir.join("tokens.csv"), format!("{TOKEN},admin,admin,\"system:masters\"\n")).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(dir.join("sa.key"), key.serialize_pem()).unwrap();
    fs::write(dir.join("sa.pub"), key.public_key_pem()).unwrap();
    let log = File::create(dir.join("kube-apiserver.log")).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    Command::new(assets.join("kube-apiserver"))
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"))
        .arg(format!("--cert-dir={}", path("certs")))
        .arg(format!("--token-auth-file={}", path("tokens.csv")))
        .arg("--authorization-mode=RBAC")
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(format!("--service-account-key-file={}", path("sa.pub")))
        .arg(format!("--service-account-signing-key-file={}", path("sa.key")))
        .arg("--service-cluster-ip-range=10.96.0.0/16")
        .arg("--bind-address=127.0.0.1")
        .arg(format!("--secure-port={port}"))
        // No controllers run here that would make the accounts of pods.
        .arg("--disable-admission-plugins=ServiceAccount")
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("kube-apiserver must be in KUBEBUILDER_ASSETS")
}
