"""AWS Signature Version 4 for the few requests that the supervisor sends to the object store.

Source: AWS General Reference, "Create a signed AWS API request". The supervisor uses this instead
of botocore, whose import costs it more than all its other work together.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from urllib.parse import quote

from devstack.secrets import Credentials

_NO_QUERY: Mapping[str, str] = MappingProxyType({})


def sign(
    method: str,
    host: str,
    path: str,
    region: str,
    credentials: Credentials,
    now: datetime,
    *,
    query: Mapping[str, str] = _NO_QUERY,
    body: bytes = b"",
) -> dict[str, str]:
    """The headers that authenticate `method path` at `host` (`name:port`) for S3.

    `path` is percent-encoded already, `query` is not: `query_string` is what to send. `now` is
    aware and in UTC.
    """
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    content = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": content, "x-amz-date": stamp}
    signed = ";".join(headers)
    canonical_headers = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([method, path, query_string(query), canonical_headers, signed, content])
    scope = f"{day}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, digest])
    key = f"AWS4{credentials.secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    fields = {"Credential": f"{credentials.user}/{scope}", "SignedHeaders": signed}
    fields["Signature"] = signature
    authorization = ", ".join(f"{name}={value}" for name, value in fields.items())
    return {
        "x-amz-content-sha256": content,
        "x-amz-date": stamp,
        "authorization": f"AWS4-HMAC-SHA256 {authorization}",
    }


def query_string(query: Mapping[str, str]) -> str:
    """The parameters in the one form that is signed: sorted, percent-encoded, each with `=`."""
    pairs = sorted((quote(name, safe="-_.~"), quote(query[name], safe="-_.~")) for name in query)
    return "&".join(f"{name}={value}" for name, value in pairs)
