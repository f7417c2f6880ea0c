"""A small S3 behind an IAM policy: each request is put to the policy as AWS does it, and refused or carried out.

What it knows are the requests that s3fs and obstore send for our stores.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Asked = tuple[str, str]
"""An IAM action, and the bucket and key (or the bucket and the prefix that is listed) that it is about."""


class Policy:
    """An identity policy of Allow statements, with no more of IAM's language than ours use."""

    def __init__(self, file: Path) -> None:
        self.statements = json.loads(file.read_text())["Statement"]

    def allows(self, action: str, about: str) -> bool:
        """Whether some statement allows an action on `bucket/key`, or listing `bucket?prefix`."""
        resource, _, prefix = f"arn:aws:s3:::{about}".partition("?")
        return any(self._fits(one, action, resource, prefix) for one in self.statements)

    @staticmethod
    def _fits(statement: dict[str, Any], action: str, resource: str, prefix: str) -> bool:
        assert statement["Effect"] == "Allow"
        assert statement.keys() <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        actions, resources = (
            [told] if isinstance(told, str) else told for told in (statement["Action"], statement["Resource"])
        )
        prefixes = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        return (
            action in actions
            and any(fnmatchcase(resource, pattern) for pattern in resources)
            and (prefixes is None or any(fnmatchcase(prefix, pattern) for pattern in prefixes))
        )


class GuardedS3(ThreadingHTTPServer):
    """The server; `asked` is what was asked for, `refused` what the policy refused of it."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.policy, self.objects, self.uploads = policy, dict[str, bytes](), dict[str, dict[int, bytes]]()
        self.asked, self.refused = set[Asked](), set[Asked]()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(policy: Policy) -> Iterator[GuardedS3]:
    """Serve an empty S3 behind a policy."""
    with GuardedS3(policy) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GuardedS3

    def do_GET(self) -> None:
        if "list-type" in self.query or "prefix" in self.query:
            return self._list() if self._may("s3:ListBucket", f"{self.bucket}?{self.query.get('prefix', '')}") else None
        return self._read() if self._may("s3:GetObject") else None

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if copied := self.headers["x-amz-copy-source"]:
            source = unquote(copied).lstrip("/")
            if not self._may("s3:GetObject", source):
                return None
            body = self.server.objects[source]
        if not self._may("s3:PutObject"):
            return None
        if "uploadId" in self.query:
            self.server.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = body
            return self._answer(200, headers={"ETag": _etag(body)})
        return self._create(body, f"<CopyObjectResult><ETag>{_etag(body)}</ETag></CopyObjectResult>" if copied else "")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if "delete" in self.query:
            keys = [f"{self.bucket}/{key}" for key in re.findall(r"<Key>(.*?)</Key>", body.decode())]
            allowed = [self._may("s3:DeleteObject", key, quiet=True) for key in keys]
            if not all(allowed):
                return self._answer(403, _error("AccessDenied"))
            for key in keys:
                self.server.objects.pop(key, None)
            return self._answer(200, "<DeleteResult></DeleteResult>")
        if not self._may("s3:PutObject"):
            return None
        if "uploads" in self.query:
            self.server.uploads[upload := f"upload-{len(self.server.uploads)}"] = {}
            return self._answer(
                200, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        parts = self.server.uploads.pop(self.query["uploadId"])
        whole = b"".join(parts[number] for number in sorted(parts))
        return self._create(whole, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def do_DELETE(self) -> None:
        if "uploadId" in self.query:
            if self._may("s3:AbortMultipartUpload"):
                self.server.uploads.pop(self.query["uploadId"], None)
                self._answer(204)
        elif self._may("s3:DeleteObject"):
            self.server.objects.pop(self.about, None)
            self._answer(204)

    @property
    def about(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    @property
    def bucket(self) -> str:
        return self.about.partition("/")[0]

    @property
    def query(self) -> dict[str, str]:
        return {name: one[0] for name, one in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    def _may(self, action: str, about: str | None = None, *, quiet: bool = False) -> bool:
        asked = (action, self.about if about is None else about)
        self.server.asked.add(asked)
        if self.server.policy.allows(*asked):
            return True
        self.server.refused.add(asked)
        if not quiet:
            self._answer(403, _error("AccessDenied"))
        return False

    def _create(self, body: bytes, said: str) -> None:
        if self.headers["If-None-Match"] == "*" and self.about in self.server.objects:
            return self._answer(412, _error("PreconditionFailed"))
        self.server.objects[self.about] = body
        return self._answer(200, said, headers={"ETag": _etag(body)})

    def _read(self) -> None:
        content = self.server.objects.get(self.about)
        if content is None:
            return self._answer(404, _error("NoSuchKey"))
        headers = {"ETag": _etag(content), "Last-Modified": "Tue, 24 Nov 2026 00:00:00 GMT"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if span is None:
            return self._answer(200, content, headers=headers)
        part = content[int(span[1]) : int(span[2] or len(content)) + 1]
        told = f"bytes {span[1]}-{int(span[1]) + len(part) - 1}/{len(content)}"
        return self._answer(206, part, headers={**headers, "Content-Range": told})

    def _list(self) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        keys = sorted(key.partition("/")[2] for key in self.server.objects if key.startswith(f"{self.bucket}/{prefix}"))
        folders = (
            {
                prefix + key[len(prefix) :].split(delimiter)[0] + delimiter
                for key in keys
                if delimiter in key[len(prefix) :]
            }
            if delimiter
            else set()
        )
        entries = [key for key in keys if not delimiter or delimiter not in key[len(prefix) :]]
        said = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[f'{self.bucket}/{key}'])}</Size>"
            f"<ETag>{_etag(self.server.objects[f'{self.bucket}/{key}'])}</ETag>"
            "<LastModified>2026-11-24T00:00:00.000Z</LastModified></Contents>"
            for key in entries
        )
        said += "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
        count = len(entries) + len(folders)
        self._answer(
            200,
            f"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>{count}</KeyCount>{said}</ListBucketResult>",
        )

    def _answer(self, code: int, body: str | bytes = b"", headers: dict[str, str] | None = None) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _error(code: str) -> str:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
