//! Who may ask: pages of other origins (CORS, WHATWG Fetch section 3.3) and users with a password (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rouille::{Request, Response};
use sha2::{Digest as _, Sha256};

/// Seconds for which a browser may remember the answer to its preflight.
const PREFLIGHT_MAX_AGE_S: &str = "600";
/// Our own header fields that a page of another origin may read.
const EXPOSED: &str =
    "ETag, Location, Retry-After, X-Capture-Time, X-File-Time, X-Frame-Age-Ms, X-Stream-Epoch";

/// What a browser is told about pages of other origins (keys `rest_access_control_allow_*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsSettings {
    /// `*`, or origins separated by commas; empty: pages of other origins may not read anything.
    pub allow_origin: String,
    /// Header fields that such a page may send.
    pub allow_headers: String,
    /// Methods that it may use beside GET, HEAD and POST, which browsers always allow.
    pub allow_methods: String,
}

impl CorsSettings {
    /// Adds what the request's page needs to read the response.
    #[must_use]
    pub fn apply(&self, request: &Request, response: Response) -> Response {
        let response = match self.allow_origin.trim() {
            "" => return response,
            "*" => response.with_additional_header("Access-Control-Allow-Origin", "*"),
            list => {
                let response = response.with_additional_header("Vary", "Origin");
                let origin = request.header("Origin").filter(|origin| {
                    list.split([',', ' ']).any(|allowed| allowed.trim().eq_ignore_ascii_case(origin))
                });
                let Some(origin) = origin else { return response };
                response.with_additional_header("Access-Control-Allow-Origin", origin.to_owned())
            }
        };
        response
            .with_additional_header("Access-Control-Allow-Credentials", "true")
            .with_additional_header("Access-Control-Expose-Headers", EXPOSED)
    }

    /// The answer to a preflight, without what [`CorsSettings::apply`] adds. `with_password` also allows the header field
    /// that carries it.
    #[must_use]
    pub fn preflight(&self, with_password: bool) -> Response {
        let mut headers = self.allow_headers.clone();
        if with_password {
            headers.push_str(if headers.is_empty() { "authorization" } else { ",authorization" });
        }
        Response::text("")
            .with_additional_header("Access-Control-Allow-Headers", headers)
            .with_additional_header("Access-Control-Allow-Methods", self.allow_methods.clone())
            .with_additional_header("Access-Control-Max-Age", PREFLIGHT_MAX_AGE_S)
    }
}

/// The user who may ask; the password itself is not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    digest: [u8; 32],
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// One user. A user name cannot hold a colon (RFC 7617 section 2): such a user could never log in.
    #[must_use]
    pub fn new(user: &str, password: &str) -> Self {
        Self { digest: digest(format!("{user}:{password}").as_bytes()) }
    }

    /// Whether the request carries this user's name and password. Takes the same time wherever they differ.
    #[must_use]
    pub fn admit(&self, request: &Request) -> bool {
        let given = request.header("Authorization").and_then(|value| {
            let (scheme, token) = value.trim().split_once(' ')?;
            scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(token.trim()).ok())?
        });
        let Some(given) = given else { return false };
        let given = digest(&given);
        // Compared as digests and to the end: neither length nor place of a difference shows in time.
        let difference = self.digest.iter().zip(given).fold(0, |all, (ours, theirs)| all | (ours ^ theirs));
        std::hint::black_box(difference) == 0
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request::fake_http("GET", "/rest-api/stream/find", headers, Vec::new())
    }

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    #[test]
    fn only_the_right_user_with_the_right_password_is_admitted() {
        let credentials = Credentials::new("admin", "geheim:ja");
        let with = |value: &str| credentials.admit(&request(&[("authorization", value)]));
        assert!(with(&format!("Basic {}", STANDARD.encode("admin:geheim:ja"))));
        assert!(with(&format!("basic {}", STANDARD.encode("admin:geheim:ja"))));
        assert!(!with(&format!("Basic {}", STANDARD.encode("admin:geheim"))));
        assert!(!with(&format!("Basic {}", STANDARD.encode("Admin:geheim:ja"))));
        assert!(!with(&format!("Bearer {}", STANDARD.encode("admin:geheim:ja"))));
        assert!(!with("Basic") && !with("Basic !!!") && !with(""));
        assert!(!credentials.admit(&request(&[])));
        assert!(!format!("{credentials:?}").contains("geheim"));
    }

    #[test]
    fn listed_origins_and_no_others_may_read() {
        let cors = CorsSettings {
            allow_origin: "https://a.example, https://b.example".into(),
            allow_headers: "content-type".into(),
            allow_methods: "POST".into(),
        };
        let allowed = |origin: &str| {
            let response = cors.apply(&request(&[("Origin", origin)]), Response::text(""));
            assert_eq!(header(&response, "Vary"), Some("Origin"));
            header(&response, "Access-Control-Allow-Origin").map(str::to_owned)
        };
        assert_eq!(allowed("https://b.example").as_deref(), Some("https://b.example"));
        assert_eq!(allowed("https://b.example.evil"), None);
        let closed = CorsSettings { allow_origin: String::new(), ..cors };
        let response = closed.apply(&request(&[("Origin", "https://a.example")]), Response::text(""));
        assert_eq!(header(&response, "Access-Control-Allow-Origin"), None);
        assert_eq!(
            header(&closed.preflight(true), "Access-Control-Allow-Headers"),
            Some("content-type,authorization")
        );
    }
}
