//! Clients of the WebSocket, as an operator sees and reaches them by REST.

use serde_json::json;

use crate::publish::{Live, Way, clip, publish};
use crate::support::page::PageError;
use crate::support::rest::HttpClient;
use crate::support::server::Server;
use crate::support::ws_client::{Closed, WsClient};

const FIND: &str = "/rest-api/connection/find";
const FIND_ALL: &str = "/rest-api/connection/find_all";
const TERMINATE: &str = "/rest-api/connection/terminate";
const SEND: &str = "/rest-api/data/send";

#[test]
fn connections_are_listed_without_their_tokens_told_things_and_ended() {
    let server = Server::start(&[], false);
    let mut rest = HttpClient::connect(server.address("http"));
    rest.get(FIND_ALL).error(404, FIND_ALL);
    let _silent = WsClient::connect(server.address("ws"));
    let mut one = WsClient::connect(server.address("ws"));
    let told = one.greet()[0].clone();
    let mut two = WsClient::hello(server.address("ws"));

    let all = rest.get(FIND_ALL).json();
    assert_eq!(all.as_array().unwrap().len(), 2, "who has not introduced itself is nobody yet: {all}");
    let found = rest.post(FIND, &json!({"sessionId": told["sessionId"], "appKey": "defaultApp"}).to_string());
    let found = found.json();
    let expected = json!([{
        "nodeId": found[0]["nodeId"], "appKey": "defaultApp", "mediaProviders": ["WebRTC"],
        "sessionId": told["sessionId"], "status": "ESTABLISHED",
    }]);
    assert_eq!(found, expected);
    assert!(!found.to_string().contains(told["authToken"].as_str().unwrap()));
    rest.post(FIND, r#"{"appKey":"another"}"#).error(404, FIND);

    let message = json!({"operationId": "op9", "sessionId": told["sessionId"], "payload": {"seat": [7]}});
    let sent = rest.post(SEND, &message.to_string());
    assert_eq!((sent.status, sent.body.len()), (200, 0));
    assert_eq!(one.expect("OnDataEvent"), json!([{"operationId": "op9", "payload": {"seat": [7]}}]));
    rest.post(SEND, r#"{"sessionIds":["nobody"],"payload":{}}"#).error(404, SEND);
    rest.post(SEND, r#"{"payload":{}}"#).error(400, SEND);

    rest.post(TERMINATE, "{}").error(400, TERMINATE);
    rest.post(TERMINATE, r#"{"sessionId":"nobody"}"#).error(404, TERMINATE);
    let ended = rest.post(TERMINATE, &json!({"sessionId": told["sessionId"]}).to_string());
    assert_eq!((ended.status, ended.body.len()), (200, 0));
    assert_eq!(one.expect_close(), Closed::Code(1008));
    // The other one lives on.
    two.say("ping", json!(null));
    two.expect("pong");
}

#[test]
fn a_connection_that_is_ended_takes_its_streams_with_it() {
    let server = Server::start(&[], false);
    let Live { mut page, publishers, .. } = publish(&server, "cam", &clip(300, 30), Way::default());
    let mut rest = HttpClient::connect(server.address("http"));
    let stream = rest.post("/rest-api/stream/find", r#"{"name":"cam"}"#).json();
    let event = json!({"streamName": "cam", "payload": {"count": 23}}).to_string();
    assert_eq!(rest.post("/rest-api/stream/event/send", &event).status, 200);
    let heard = page.wait_for(|message| message["message"] == "notifyStreamEvent").unwrap();
    let own =
        json!([{"mediaSessionId": stream[0]["mediaSessionId"], "type": "data", "payload": {"count": 23}}]);
    assert_eq!(heard["data"], own, "its publisher hears it, too");

    let body = json!({"sessionId": stream[0]["sessionId"]}).to_string();
    assert_eq!(rest.post(TERMINATE, &body).status, 200);
    assert!(matches!(page.wait_for(|_| false), Err(PageError::WebSocket(_))));
    // The close frame is sent when the names are free.
    assert!(server.app().registry().find("cam").is_none());
    publishers.close();
}
