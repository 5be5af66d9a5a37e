// What the manuals' code samples lean on: the elements, a name, the status fields.
var localVideo = document.getElementById("localVideo");
var snapshotImg = document.getElementById("dynImg");
var streamName = "sample";

function setStatus(status) { $("#status").text(status); }
function setSnapshotStatus(status) { $("#snapshotStatus").text(status === undefined ? "" : status); }
function onUnpublished() { $("#publishBtn").text("Start"); }
