//! The bounds of what is sent and accepted. What Kubernetes itself allows fits into them.

/// Bytes of one frame, without its length prefix.
pub const MAX_FRAME: usize = 1 << 20;
/// Bytes of one message of the membership; the whole state of a mesh fits, as it fits into storage.
pub const MAX_MEMBERSHIP: usize = MAX_FRAME - 64;
/// Bytes of one encoded record; a frame with one record of this size fits into [`MAX_FRAME`].
pub const MAX_RECORD: usize = 768 << 10;
/// Characters of a name of an object, node or namespace (RFC 1123 subdomain).
pub const MAX_NAME: usize = 253;
/// Characters of a pod's UID.
pub const MAX_UID: usize = 128;
/// Labels of an identity.
pub const MAX_LABELS: usize = 512;
/// Characters of a label's key: a qualified name with the prefix that the model gives it.
pub const MAX_LABEL_KEY: usize = 384;
/// Characters of a label's value.
pub const MAX_LABEL_VALUE: usize = 253;
/// Addresses of an endpoint, node or service.
pub const MAX_ADDRESSES: usize = 64;
/// Pod prefixes of a node.
pub const MAX_PREFIXES: usize = 256;
/// Ports of a service.
pub const MAX_PORTS: usize = 256;
/// Backends of a service port.
pub const MAX_BACKENDS: usize = 8192;
/// Rules of a policy, per direction.
pub const MAX_RULES: usize = 1024;
/// Peers, ports or exceptions of a rule.
pub const MAX_RULE_PARTS: usize = 2048;
/// Requirements of a selector.
pub const MAX_REQUIREMENTS: usize = 256;
/// Values of a requirement.
pub const MAX_VALUES: usize = 1024;
/// Endpoints in one message of facts.
pub const MAX_FACT_ENDPOINTS: usize = 1024;
/// Features in a hello, and the characters of each.
pub const MAX_FEATURES: usize = 64;
/// Clusters in a watermark: every id there is.
pub const MAX_CLUSTERS: usize = 4095;
/// Buckets that records are compared by; a power of two.
pub const MAX_BUCKETS: usize = 1 << 13;
/// Fingerprints in one message; as many fit into [`MAX_FRAME`].
pub const MAX_HELD: usize = 1 << 16;
/// Bytes of a token or a signing request.
pub const MAX_CREDENTIAL: usize = 16 << 10;
/// Certificates of a chain.
pub const MAX_CHAIN: usize = 8;
/// Characters of the reason in a refusal; longer ones are cut.
pub const MAX_REASON: usize = 1024;
