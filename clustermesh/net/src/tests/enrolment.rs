use async_trait::async_trait;

use super::*;
use crate::enroll::{EnrollServer, TokenError, TokenVerifier, enroll};

/// Knows one token.
struct OneToken;

#[async_trait]
impl TokenVerifier for OneToken {
    async fn verify(&self, token: &str) -> Result<NodeName, TokenError> {
        match token {
            "good" => Ok("worker-1".parse().unwrap()),
            "later" => Err(TokenError::Unavailable("the API server is away".into())),
            _ => Err(TokenError::Rejected("unknown".into())),
        }
    }
}

fn serve_enrolment(east: &Cluster) -> (SocketAddr, JoinSet<()>) {
    let listener = east.listen();
    let address = listener.local_address().unwrap();
    let server = Arc::new(EnrollServer::new(
        east.local.cluster.clone(),
        east.authority.clone(),
        Arc::new(OneToken),
        crate::enroll::LIFETIME,
        east.stats.clone(),
    ));
    let (events, received) = mpsc::channel(64);
    let nodes = NodeServer::new(east.local.clone(), east.exporter.clone(), events, east.stats.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _events = received;
        serve(listener, move |accepted| {
            let (server, nodes) = (server.clone(), nodes.clone());
            async move {
                let _ = match accepted.service {
                    Service::Enroll => server.serve(accepted).await,
                    _ => nodes.serve(accepted).await,
                };
            }
        })
        .await;
    });
    (address, tasks)
}

#[tokio::test]
async fn a_token_becomes_a_certificate_becomes_a_session() {
    let east = Cluster::new("east", 1);
    east.pods(0..3);
    east.complete();
    let (address, _server) = serve_enrolment(&east);
    let credentials = Credentials::none();
    let dialer = Dialer::bind(LOOPBACK.parse().unwrap(), credentials.clone(), east.trust.clone()).unwrap();
    let mut node = Node::start(&east, dialer.clone(), address);
    assert!(node.error().await.contains("certificate"), "{:?}", node.status.borrow());
    let enrolled =
        soon("enrolment", enroll(&dialer, address, &east.local.cluster, "good", &node.stats)).await.unwrap();
    assert_eq!(enrolled.info().id, east.node("worker-1"));
    let left = enrolled.renew_at().duration_since(SystemTime::now()).unwrap();
    assert!(left > DAY / 2 && left < DAY * 3 / 4, "{left:?}");
    enrolled.install(&credentials).unwrap();
    node.in_sync(&east).await;
    assert_eq!(east.stats.snapshot().enrolled, 1);
}

#[tokio::test]
async fn other_tokens_get_nothing() {
    let east = Cluster::new("east", 1);
    let (address, _server) = serve_enrolment(&east);
    let dialer = Dialer::bind(LOOPBACK.parse().unwrap(), Credentials::none(), east.trust.clone()).unwrap();
    for (token, why) in [("bad", "rejected: unknown"), ("later", "cannot be checked now"), ("", "rejected")] {
        let error = enroll(&dialer, address, &east.local.cluster, token, &east.stats).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!((east.stats.snapshot().enrolled, east.stats.snapshot().enroll_refused), (0, 3));
}

#[tokio::test]
async fn the_token_is_shown_to_the_own_daemon_only() {
    let (east, evil) = (Cluster::new("east", 1), Cluster::new("east", 1));
    let (address, _server) = serve_enrolment(&evil);
    let dialer = Dialer::bind(LOOPBACK.parse().unwrap(), Credentials::none(), east.trust.clone()).unwrap();
    let error = enroll(&dialer, address, &east.local.cluster, "good", &east.stats).await.unwrap_err();
    assert!(error.to_string().contains("not valid"), "{error}");
    assert_eq!(evil.stats.snapshot().enrolled, 0);
}

#[test]
fn names_come_from_the_token_not_from_the_request() {
    let east = Cluster::new("east", 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://east/daemon".try_into().unwrap())];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap();
    let issued =
        east.authority.issue_for_request(&east.node("a"), request.der(), SystemTime::now(), DAY).unwrap();
    let info = crate::tls::CertificateInfo::from_der(&issued.chain[0]).unwrap();
    assert_eq!(info.id, east.node("a"));
    let (_, parsed) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    assert!(!parsed.is_ca());
    let mut damaged = request.der().to_vec();
    if let Some(last) = damaged.last_mut() {
        *last ^= 1;
    }
    assert!(east.authority.issue_for_request(&east.node("a"), &damaged, SystemTime::now(), DAY).is_err());
}
