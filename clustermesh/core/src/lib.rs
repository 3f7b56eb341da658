//! Sans-IO mesh protocols: membership, replication, global services, trust.
