//! The kubeconfig of a playground serves kubectl as any cluster's does.
#![expect(clippy::unwrap_used, reason = "a test ends where something is wrong")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use tombolo_e2e::{Cluster, IMAGE, machine::machines};

/// A kubectl that runs until this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kubectl(arguments: &str) -> Command {
    let east = machines("east").unwrap();
    let mut command = Command::new(east.layout().programs().join("kubectl"));
    command.arg("--kubeconfig").arg(east.kubeconfig()).args(arguments.split(' '));
    command
}

fn said(arguments: &str) -> String {
    let output = kubectl(arguments).output().unwrap();
    assert!(output.status.success(), "kubectl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
#[ignore = "needs 2 clusters; 50 s"]
async fn deployments_exec_logs_dns_and_port_forward() {
    let scope = Cluster::attach("east").await.unwrap().scope("kubectl").await.unwrap();
    let on = format!("--namespace {}", scope.namespace);
    said(&format!(
        "{on} create deployment web --image {IMAGE} --replicas 2 --port 8080 -- /bin/testpod http"
    ));
    said(&format!("{on} rollout status deployment/web --timeout 60s"));
    said(&format!("{on} expose deployment web --port 80 --target-port 8080"));
    let client =
        format!("run client --image {IMAGE} --restart Never -- get http://web.{}/ -n 300", scope.namespace);
    said(&format!("{on} {client} --interval 100 --timeout 500"));
    said(&format!("{on} wait pod/client --for condition=Ready --timeout 30s"));
    let got = said(&format!("{on} exec client -- /bin/testpod resolve web"));
    assert!(got.contains("address ip=10.96."), "{got}");
    said(&format!("{on} scale deployment/web --replicas 3"));
    said(&format!("{on} rollout restart deployment/web"));
    said(&format!("{on} rollout status deployment/web --timeout 60s"));
    let log = said(&format!("{on} logs client --tail 5"));
    assert!(log.contains("ok status=200"), "{log}");

    let mut forward =
        kubectl(&format!("{on} port-forward service/web :80")).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(forward.stdout.take().unwrap());
    let _forward = Running(forward);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"), "{answer}");
}
