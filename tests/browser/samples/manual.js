// Code samples as the manuals print them, with their dots filled in: connection, publishing, stopping, and a snapshot in both styles.
Flashphoner.init();

function connect(url) {
    Flashphoner.createSession({urlServer: url}).on(SESSION_STATUS.ESTABLISHED, function(session){
        //session connected, start streaming
        startStreaming(session);
    }).on(SESSION_STATUS.DISCONNECTED, function(){
        setStatus(SESSION_STATUS.DISCONNECTED);
        onUnpublished();
    }).on(SESSION_STATUS.FAILED, function(){
        setStatus(SESSION_STATUS.FAILED);
        onUnpublished();
    });
}

function startStreaming(session) {
    session.createStream({
        name: streamName,
        display: localVideo,
        cacheLocalResources: true,
        receiveVideo: false,
        receiveAudio: false
    }).on(STREAM_STATUS.PUBLISHING, function(publishStream){
        setStatus(STREAM_STATUS.PUBLISHING);
        onPublishing(publishStream);
    }).on(STREAM_STATUS.UNPUBLISHED, function(){
        setStatus(STREAM_STATUS.UNPUBLISHED);
        //enable start button
        onUnpublished();
    }).on(STREAM_STATUS.FAILED, function(stream){
        setStatus(STREAM_STATUS.FAILED);
    }).publish();
}

function onPublishing(stream) {
    $("#publishBtn").text("Stop").off('click').click(function(){
        $(this).prop('disabled', true);
        stream.stop();
    }).prop('disabled', false);
}

var newStyle = function snapshot(name) {
    setSnapshotStatus();
    var session = Flashphoner.getSessions()[0];
    session.createStream({name: name}).on(STREAM_EVENT, function(streamEvent){
        if (STREAM_EVENT_TYPE.SNAPSHOT_COMPLETED === streamEvent.type) {
            console.log("Snapshot complete");
            setSnapshotStatus(STREAM_STATUS.SNAPSHOT_COMPLETE);
            snapshotImg.src = "data:image/png;base64,"+streamEvent.payload.snapshot;
        } else if (STREAM_EVENT_TYPE.SNAPSHOT_FAILED === streamEvent.type) {
            setSnapshotStatus(STREAM_STATUS.FAILED);
            console.log("Snapshot failed, info: " + streamEvent.payload.info);
        }
    }).snapshot();
};

var oldStyle = function snapshot(name) {
    setSnapshotStatus();
    var session = Flashphoner.getSessions()[0];
    session.createStream({name: name}).on(STREAM_STATUS.SNAPSHOT_COMPLETE, function(stream){
        console.log("Snapshot complete");
        setSnapshotStatus(STREAM_STATUS.SNAPSHOT_COMPLETE);
        snapshotImg.src = "data:image/png;base64,"+stream.getInfo();
        //remove failed callback
        stream.on(STREAM_STATUS.FAILED, function(){});
        //release stream object
        stream.stop();
    }).on(STREAM_STATUS.FAILED, function(stream){
        setSnapshotStatus(STREAM_STATUS.FAILED);
        console.log("Snapshot failed, info: " + stream.getInfo());
    }).snapshot();
};
