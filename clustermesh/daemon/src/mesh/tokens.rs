//! Tokens that let clusters in.

use std::time::Duration;

use tombolo_mesh_core::{
    membership::{Command, TokenId, TokenRecord, TokenStatus},
    token::{Secret, Token},
};

use super::{Mesh, join::unix_now};

/// How long the mesh may take to decide.
const DECISION: Duration = Duration::from_secs(10);
/// The longest time for which a token can be made.
const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);

/// A lifetime like `90s`, `30m`, `24h` or `7d`.
///
/// # Errors
/// One sentence.
pub fn parse_ttl(text: &str) -> Result<Duration, String> {
    let bad = || format!("lifetime {text:?} is not valid: use a number and a unit, like 90s, 30m, 24h or 7d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(bad)?;
    let ttl = Duration::from_secs(seconds);
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(format!("lifetime {text:?} is out of range: use 1s to {}d", MAX_TTL.as_secs() / 86_400));
    }
    Ok(ttl)
}

impl Mesh {
    /// A new token for this cluster's mesh. It holds a secret.
    ///
    /// # Errors
    /// One sentence.
    pub async fn create_token(&self, ttl: Duration) -> Result<String, String> {
        let known = self.known().map_err(|e| e.to_string())?;
        let local = &self.0.config.local;
        let own =
            known.state.clusters.get(&local.cluster_id).ok_or("this cluster is still joining: try again")?;
        let pin = self.authority().pin().map_err(|e| e.to_string())?;
        let token = Token {
            mesh: known.state.mesh,
            id: TokenId(rand::random()),
            secret: Secret::new(rand::random()),
            endpoints: own.endpoints.clone(),
            ca_pin: pin.0,
            issuer: local.cluster.clone(),
            expires: unix_now() + ttl.as_secs(),
        };
        let record = TokenRecord {
            id: token.id,
            secret_hash: token.secret.hash(),
            expires: token.expires,
            creator: local.cluster_id,
            status: TokenStatus::Open,
        };
        self.propose(Command::CreateToken(record)).await?;
        Ok(token.reveal())
    }

    /// The tokens that the mesh remembers, one a line.
    ///
    /// # Errors
    /// One sentence.
    pub fn list_tokens(&self) -> Result<String, String> {
        let membership = self.membership().map_err(|e| e.to_string())?;
        let state = membership.watch().borrow().state.clone();
        let now = unix_now();
        let name =
            |id| state.clusters.get(&id).map_or_else(|| format!("cluster {id}"), |c| c.name.to_string());
        let line = |token: &TokenRecord| {
            let status = match token.status {
                TokenStatus::Open if token.expires <= now => "expired".to_owned(),
                TokenStatus::Open => format!("open for {} s", token.expires - now),
                TokenStatus::Spent(by) => format!("used by {}", name(by)),
                TokenStatus::Revoked => "revoked".to_owned(),
            };
            format!("{} made by {}: {status}", token.id, name(token.creator))
        };
        Ok(state.tokens.values().map(line).collect::<Vec<_>>().join("\n"))
    }

    /// Calls a token back. `id` is as [`Mesh::list_tokens`] writes it.
    ///
    /// # Errors
    /// One sentence.
    pub async fn revoke_token(&self, id: &str) -> Result<String, String> {
        let number = u64::from_str_radix(id, 16);
        let number = number.map_err(|_| format!("{id:?} is no token id: `token list` shows them"))?;
        self.propose(Command::RevokeToken(TokenId(number))).await?;
        Ok(format!("token {id} was revoked"))
    }

    async fn propose(&self, command: Command) -> Result<(), String> {
        let membership = self.membership().map_err(|e| e.to_string())?;
        membership.propose(command, DECISION).await.map(drop).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_a_unit_and_bounds() {
        assert_eq!(parse_ttl("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_ttl("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "1", "h", "-1h", "1w", "1h30m", "0s", "31d", "99999999999999999999d", "1 h"] {
            let error = parse_ttl(bad).unwrap_err();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
