"""As much of the Hugging Face Hub's interface as fetching a snapshot needs."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
  """Serves the files of one model at `address`; `asked` lists paths that were fetched.

  Args:
    name: OWNER/NAME.
    files: path -> content.
    revisions: names of revisions beside the commit itself.
  """

  def __init__(self, name, files, revisions=('main',)):
    self.name, self.files, self.asked = name, files, []
    self.commit = hashlib.sha1(name.encode()).hexdigest()
    self.revisions = {*revisions, self.commit}
    hub = self

    class Handler(BaseHTTPRequestHandler):
      protocol_version = 'HTTP/1.1'

      def log_message(self, *_):
        pass

      def answer(self, status, body=b'', **headers):
        self.send_response(status)
        for key, value in headers.items():
          self.send_header(key.replace('_', '-'), value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
          self.wfile.write(body)

      def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip('/')
        api, file = f'api/models/{hub.name}', f'{hub.name}/resolve/'
        if path.startswith(f'{api}/revision/') or path == api:
          wanted = path.partition('/revision/')[2] or 'main'
          if wanted not in hub.revisions:
            return self.answer(404, b'{}', X_Error_Code='RevisionNotFound')
          body = {'id': hub.name, 'sha': hub.commit, 'siblings': hub.listed()}
          return self.json(body)
        if path.startswith(f'{api}/tree/'):
          return self.json([{'type': 'file', **f} for f in hub.listed()])
        if path.startswith(file):
          name = path.removeprefix(file).partition('/')[2]
          if self.command == 'GET':
            hub.asked.append(name)
          body = hub.files[name]
          return self.answer(
            200,
            body,
            ETag=f'"{hashlib.sha1(body).hexdigest()}"',
            X_Repo_Commit=hub.commit,
          )
        return self.answer(404, b'{}', X_Error_Code='RepoNotFound')

      do_HEAD = do_GET

      def json(self, value):
        self.answer(200, json.dumps(value).encode(), Content_Type='application/json')

    self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self.address = f'http://127.0.0.1:{self.server.server_port}'
    threading.Thread(target=self.server.serve_forever, daemon=True).start()

  def listed(self):
    return [
      {
        'rfilename': name,
        'path': name,
        'size': len(body),
        'oid': hashlib.sha1(body).hexdigest(),
      }
      for name, body in self.files.items()
    ]

  def close(self):
    self.server.shutdown()
    self.server.server_close()
