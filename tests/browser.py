"""A headless Chromium for tests, driven over pipes; nothing but the standard library.

The DevTools protocol is spoken on two inherited file descriptors (3 to the browser,
4 from it), each message ending in a zero byte: no port, no driver program.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
FLAGS = (
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--disable-dev-shm-usage', '--hide-scrollbars', '--remote-debugging-pipe',
)  # fmt: skip


def find():
  """Path of a Chromium, or None."""
  return next((p for p in map(shutil.which, NAMES) if p), None)


class Browser:
  """One tab. Use as a context manager; `problems` collects console errors,
  exceptions and every request that is not the page itself."""

  def __init__(self, binary=None, timeout=60):
    self.binary, self.timeout = binary or find(), timeout
    self.problems, self._number, self._rest = [], 0, b''

  def __enter__(self):
    self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    to_read, self._out = os.pipe()
    self._in, to_write = os.pipe()
    script = f'exec "$@" 3<&{to_read} 4>&{to_write}'
    self._process = subprocess.Popen(
      ['bash', '-c', script, 'bash', self.binary, *FLAGS,
       f'--user-data-dir={self._home.name}', 'about:blank'],
      pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_read)
    os.close(to_write)
    self._session = None
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
    self._session = attached['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self.call(f'{domain}.enable')
    return self

  def __exit__(self, *_):
    self._process.terminate()
    try:
      self._process.wait(10)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    os.close(self._out)
    os.close(self._in)
    self._home.cleanup()

  def call(self, method, **params):
    """Sends one command and returns its result."""
    self._number += 1
    message = {'id': self._number, 'method': method, 'params': params}
    if self._session:
      message['sessionId'] = self._session
    os.write(self._out, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._receive()
      if answer.get('id') == self._number:
        if 'error' in answer:
          raise RuntimeError(f'{method}: {answer["error"]["message"]}')
        return answer['result']
      self._note(answer)

  def open(self, url, width=1280, height=900, dark=False):
    """Loads `url` in a window of that size and waits until it is done."""
    self.call('Emulation.setDeviceMetricsOverride', width=width, height=height,
              deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
    scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
    self.call('Emulation.setEmulatedMedia', features=[scheme])
    self.call('Page.navigate', url='about:blank')
    self._page = url
    self.call('Page.navigate', url=url)
    self.wait('location.href !== "about:blank" && document.readyState === "complete"')

  def js(self, expression):
    """Value of a JavaScript expression (JSON)."""
    result = self.call('Runtime.evaluate', expression=expression, returnByValue=True,
                       awaitPromise=True)  # fmt: skip
    if 'exceptionDetails' in result:
      raise RuntimeError(result['exceptionDetails'])
    return result['result'].get('value')

  def wait(self, expression):
    """Until the expression is true; TimeoutError after `timeout` seconds."""
    end = time.monotonic() + self.timeout
    while not self.js(expression):
      if time.monotonic() > end:
        raise TimeoutError(expression)
      time.sleep(0.02)

  def screenshot(self, path, whole=True):
    """PNG of the whole page, or of the window."""
    shot = self.call('Page.captureScreenshot', captureBeyondViewport=whole)
    with open(path, 'wb') as f:
      f.write(base64.b64decode(shot['data']))

  def _receive(self):
    end = time.monotonic() + self.timeout
    while b'\0' not in self._rest:
      ready, _, _ = select.select([self._in], [], [], max(end - time.monotonic(), 0))
      data = os.read(self._in, 1 << 16) if ready else b''
      if not data:
        raise TimeoutError('the browser does not answer')
      self._rest += data
    message, self._rest = self._rest.split(b'\0', 1)
    return json.loads(message)

  def _note(self, event):
    method, params = event.get('method'), event.get('params', {})
    if method == 'Runtime.exceptionThrown':
      self.problems.append(json.dumps(params['exceptionDetails']))
    elif method == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'assert'):
      self.problems.append(json.dumps(params['args']))
    elif method == 'Log.entryAdded' and params['entry']['level'] == 'error':
      self.problems.append(params['entry']['text'])
    elif method == 'Network.requestWillBeSent':
      url = params['request']['url']
      if url.split('#')[0] not in ('about:blank', self._page.split('#')[0]) and (
        not url.startswith('data:')
      ):
        self.problems.append(f'request of {url}')
