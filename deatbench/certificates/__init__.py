"""Proofs that no attack can succeed: linear bounds on a network's margins over the whole ball."""

from __future__ import annotations

from deatbench.certificates.certify import Certifier
from deatbench.certificates.network import Network, NotCertifiable
from deatbench.certificates.reading import read

__all__ = ["Certifier", "Network", "NotCertifiable", "read"]
