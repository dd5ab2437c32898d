"""AWS Signature Version 4 for a request without a body, such as asking about a bucket.

Source: AWS General Reference, "Create a signed AWS API request". The supervisor uses this instead
of botocore, whose import costs it more than all its other work together.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime

from devstack.secrets import Credentials

_EMPTY = hashlib.sha256(b"").hexdigest()


def sign(
    method: str, host: str, path: str, region: str, credentials: Credentials, now: datetime
) -> dict[str, str]:
    """The headers that authenticate `method path` at `host` (`name:port`) for S3.

    `now` is aware and in UTC.
    """
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"host": host, "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
    signed = ";".join(headers)
    canonical_headers = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([method, path, "", canonical_headers, signed, _EMPTY])
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
        "x-amz-content-sha256": _EMPTY,
        "x-amz-date": stamp,
        "authorization": f"AWS4-HMAC-SHA256 {authorization}",
    }
