"""An untrusted server on loopback that records its requests, and the secrets that they must not contain."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CANARY = "canary-5c1f"
# Secrets of MLflow, and of the stores to which a server could redirect its client.
SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "DATABRICKS_TOKEN", "PGPASSWORD")


class Listener:
    """Records requests as (method and path, headers) in `heard`, and answers all with 404."""

    def __init__(self):
        self.heard = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                listener.heard.append((self.requestline, dict(self.headers), self.rfile.read(length)))
                self.send_response(404)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def authorised(self):
        """Requests that came with credentials."""
        return [line for line, headers, _ in self.heard if any(name.lower() == "authorization" for name in headers)]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def carrying(*folders):
    """The files at or below folders that contain a secret."""
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return [file for file in files if CANARY.encode() in file.read_bytes()]
