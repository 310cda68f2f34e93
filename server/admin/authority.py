"""The centre's CA, read to sign a new server certificate: whether it may."""

from datetime import datetime
from pathlib import Path

from protocol.keys import KeyFileError, read_certificate
from server.admin.certificates import Identity, beyond_constraints, constraints_of
from server.admin.passphrase import passphrase_of, read_pem_key

_ANEW = "make a new centre in another folder (init) and send every hospital its ca.pem"


def read_authority(
    ca_file: Path, key_file: Path, hosts: tuple[str, ...], now: datetime
) -> Identity:
    """The CA, with its key, to sign a certificate for these hosts now.

    Raises:
        KeyFileError: If a file cannot be read, the two are not of one pair, the passphrase is
            wrong, or the CA has ended or may not vouch for a host.
    """
    if not key_file.exists():
        raise KeyFileError(
            f"{key_file}: is not there; name the place where ca.key is kept: --ca-key FILE"
        )
    key, certificate = read_pem_key(key_file, passphrase_of(key_file)), read_certificate(ca_file)
    if certificate.public_key() != key.public_key():
        raise KeyFileError(
            f"{key_file}: is not the key of {ca_file.name}; restore both from one backup"
        )
    if certificate.not_valid_after_utc <= now:
        end = certificate.not_valid_after_utc
        raise KeyFileError(f"{ca_file}: the CA expired on {end:%Y-%m-%d}; {_ANEW}")
    if outside := beyond_constraints(certificate, hosts):
        raise KeyFileError(
            f"--host: {', '.join(outside)}: this CA may vouch only for what `init` was given"
            f" ({', '.join(constraints_of(certificate))}) and for names under these; for another"
            f" one {_ANEW}"
        )
    return Identity(key=key, certificate=certificate)
