# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0
"""Publishes on the channels of pushit. It needs no package."""
import http.client
import json
import time
import urllib.error
import urllib.request
import uuid as uuids

ATTEMPTS = 3


class PublishFailed(Exception):
    """The message was not published."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None  # the secret is not for other addresses


class PushIt:
    def __init__(self, url, secret):
        """url is the endpoint, such as https://example.com/push."""
        self._url = url
        self._secret = secret
        self._opener = urllib.request.build_opener(_NoRedirects)

    def publish(self, channel, data, uuid=None):
        """Publishes a message. data is anything that JSON can say.

        The message may be sent more than once: the uuid sees to it that it is published
        once. Give your own if you may call this again for the same message.
        """
        message = {"channel": channel, "data": data, "uuid": uuid or str(uuids.uuid4())}
        body = json.dumps(message).encode()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._send(body)
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code}: {error.read(1000).decode(errors='replace').strip()}"
                again = error.code == 429 or error.code >= 500
            except (OSError, http.client.HTTPException) as error:
                # No answer: nobody knows whether it was published. So send it again.
                why, again = str(error), True
            if not again or attempt == ATTEMPTS:
                raise PublishFailed(f"publishing on {channel}: {why}")
            time.sleep(0.25 * attempt)

    def _send(self, body):
        request = urllib.request.Request(f"{self._url}/publish", body, {
            "Authorization": f"Bearer {self._secret}",
            "Content-Type": "application/json",
        })
        with self._opener.open(request, timeout=3) as response:
            answer = response.read(1000)
        try:
            json.loads(answer)["uuid"]
        except (ValueError, TypeError, KeyError):
            # Another page, such as one that is there for every address, is no success.
            raise PublishFailed(f"{self._url} is no endpoint of pushit") from None
