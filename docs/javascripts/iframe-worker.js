// The search of a site that is opened as files: browsers refuse workers there, so a hidden frame does a worker's work.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.loaded = new Promise((done) => this.frame.addEventListener("load", done));
      // what the worker's code expects of its world: an answer goes to the page, further scripts are loaded in order
      this.frame.srcdoc = `<script>
        self.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done) => {
          const script = document.createElement("script");
          script.src = url;
          script.onload = done;
          document.body.append(script);
        })), Promise.resolve());
        self.postMessage = (data) => self.frameElement.dispatchEvent(new MessageEvent("message", { data }));
      </script><script src="${new URL(url, location.href)}"></script>`;
      this.frame.addEventListener("message", (event) => {
        const copy = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(copy);
        this.onmessage?.(copy);
      });
      document.documentElement.append(this.frame);
    }
    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
