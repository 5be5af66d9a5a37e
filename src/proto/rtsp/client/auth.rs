//! Answers to a server that wants a password (RFC 2326 section 14, RFC 7616, RFC 7617).

use std::fmt;

use http_auth::{PasswordClient, PasswordParams};

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password; may be empty.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// What a challenge comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Challenged {
    /// Requests are answered by it from now on.
    New,
    /// Likewise: the password was right, and the nonce is too old (RFC 7616 section 3.3).
    Stale,
    /// There is no password, or no scheme that we know.
    Unanswerable,
}

/// A login and the challenge that is answered with it.
pub(super) struct Answers {
    login: Option<Login>,
    client: Option<PasswordClient>,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("login", &self.login).finish_non_exhaustive()
    }
}

impl Answers {
    pub(super) fn new(login: Option<Login>) -> Self {
        Self { login, client: None }
    }

    /// Takes the challenges of a `WWW-Authenticate` header: Digest (MD5, SHA-256) before Basic.
    pub(super) fn challenge(&mut self, header: &str) -> Challenged {
        if self.login.is_none() {
            return Challenged::Unanswerable;
        }
        let Ok(client) = PasswordClient::builder().challenges(header).build() else {
            return Challenged::Unanswerable;
        };
        let is_stale = matches!(&client, PasswordClient::Digest(digest) if digest.stale());
        self.client = Some(client);
        if is_stale { Challenged::Stale } else { Challenged::New }
    }

    /// `Authorization` of a request; `None` as long as nobody asked for it.
    pub(super) fn answer(&mut self, method: &str, uri: &str) -> Option<String> {
        let login = self.login.as_ref()?;
        let client = self.client.as_mut()?;
        let params =
            |body| PasswordParams { username: &login.user, password: &login.password, uri, method, body };
        // None of our requests has a body; whoever wants it protected nevertheless gets the digest of nothing.
        client.respond(&params(None)).or_else(|_| client.respond(&params(Some(&[])))).ok()
    }
}
