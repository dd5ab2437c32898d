"""Secrets encrypted with a key of the service (Fernet: AES-128-CBC with HMAC-SHA256)."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken

from services.tracking.errors import SecretLost
from tessera_kit.config import Secret

__all__ = ["FernetBox"]

_PURPOSE = b"tessera tracking webhook secrets"


class FernetBox:
    """Seals with a key made of a secret of high entropy, as a token or 32 random bytes.

    Args:
        key: That secret; what was sealed opens with the same one only.
    """

    def __init__(self, key: Secret) -> None:
        digest = hashlib.blake2b(key.reveal().encode(), digest_size=32, person=_PURPOSE[:16])
        self._fernet = Fernet(base64.urlsafe_b64encode(digest.digest()))

    def seal(self, secret: str) -> str:
        """Return a secret encrypted."""
        return self._fernet.encrypt(secret.encode()).decode() if secret else ""

    def open(self, sealed: str) -> str:
        """Return a secret as it was."""
        if not sealed:
            return ""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise SecretLost(
                "the webhook's secret was sealed with another key; set the secret again"
            ) from None
