#!/usr/bin/env python3
"""Makes shamir.json and conclave.json, and checks the files copied from standards.

Independent of the Rust code: Shamir's scheme, the ring and BLAKE3 are written out here, the rest is Python's `hashlib`
and `cryptography` (OpenSSL). Run in this folder; it prints what it checked. The seven files that it does not write were
copied by hand from the documents that they name.
"""

import hashlib
import json
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def u32(number):
    return struct.pack("<I", number)


def hkdf(salt, ikm, info, length=32):
    return HKDF(algorithm=SHA256(), length=length, salt=salt or None, info=info).derive(ikm)


def x25519(secret, public):
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def x25519_public(secret):
    key = X25519PrivateKey.from_private_bytes(secret).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def chacha20(key, nonce, counter, data):
    return Cipher(algorithms.ChaCha20(key, u32(counter) + nonce), None).encryptor().update(data)


def aes256ctr(key, counter, data):
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(data)


# GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 by logarithms to the base 3: another way than the Rust code's.
POWERS = [1]
for _ in range(254):
    last = POWERS[-1]
    POWERS.append(last ^ (last << 1) ^ (0x11B if last & 0x80 else 0))
LOGS = {power: exponent for exponent, power in enumerate(POWERS)}


def times(a, b):
    return POWERS[(LOGS[a] + LOGS[b]) % 255] if a and b else 0


def share_at(secret, coefficients, x):
    """Sum of powers, not Horner's rule."""
    out = []
    for position in range(32):
        value, power = secret[position], 1
        for coefficient in coefficients:
            power = times(power, x)
            value ^= times(coefficient[position], power)
        out.append(value)
    return bytes(out)


def filler(name, count=1):
    """Bytes without structure: digests of a name and a number."""
    return [hashlib.sha256(f"{name} {number}".encode()).digest() for number in range(count)]


def shamir_cases():
    cases = []
    for threshold, positions in [(1, [1, 255]), (2, [1, 2, 3]), (3, [1, 2, 5, 255]), (5, [3, 7, 31, 127, 200, 254])]:
        secret = filler(f"secret {threshold}")[0]
        coefficients = filler(f"coefficient {threshold}", threshold - 1)
        shares = [{"x": x, "share": share_at(secret, coefficients, x).hex()} for x in positions]
        cases.append({
            "name": f"any {threshold} of {len(positions)}",
            "secret": secret.hex(),
            "coefficients": [coefficient.hex() for coefficient in coefficients],
            "shares": shares,
        })
    return cases


def dealing(seed, sess, dealer, kind, threshold, holders):
    coefficients = [hkdf(sess, seed, b"coef" + bytes([k])) for k in range(1, threshold)]
    parts = []
    for x in range(1, holders + 1):
        share = share_at(seed, coefficients, x)
        salt = hkdf(sess, seed, b"salt" + bytes([x]))
        leaf = hashlib.sha256(b"conclave/v1/leaf" + sess + u32(dealer) + kind + bytes([x]) + share + salt).digest()
        parts.append({"x": x, "share": share.hex(), "salt": salt.hex(), "leaf": leaf.hex()})
    return parts


# BLAKE3 (section 2 of the paper), one block after the other.
IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, PARENT, ROOT, CONTEXT, MATERIAL = 1, 2, 4, 8, 32, 64


def rotate(word, bits):
    return (word >> bits | word << (32 - bits)) & 0xFFFFFFFF


def compress(chain, block, counter, length, flags):
    v = chain + IV[:4] + [counter & 0xFFFFFFFF, counter >> 32, length, flags]
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    columns = [(at, at + 4, at + 8, at + 12) for at in range(4)]
    diagonals = [(at, (at + 1) % 4 + 4, (at + 2) % 4 + 8, (at + 3) % 4 + 12) for at in range(4)]
    for _ in range(7):
        for at, (a, b, c, d) in enumerate(columns + diagonals):
            for word, far, near in [(m[2 * at], 16, 12), (m[2 * at + 1], 8, 7)]:
                v[a] = (v[a] + v[b] + word) & 0xFFFFFFFF
                v[d] = rotate(v[d] ^ v[a], far)
                v[c] = (v[c] + v[d]) & 0xFFFFFFFF
                v[b] = rotate(v[b] ^ v[c], near)
        m = [m[at] for at in ORDER]
    return [v[at] ^ v[at + 8] for at in range(8)]


def subtree(key, data, first, flags):
    """The chaining value of the subtree over `data`, whose first chunk has the number `first`."""
    if len(data) <= 1024:
        blocks, chain = [data[at:at + 64] for at in range(0, len(data), 64)] or [b""], key
        for at, block in enumerate(blocks):
            is_first, is_last = at == 0, at == len(blocks) - 1
            own = CHUNK_START * is_first | CHUNK_END * is_last | (flags & ~ROOT) | (flags & ROOT) * is_last
            chain = compress(chain, block, first, len(block), own)
        return chain
    left = 1024
    while 2 * left < len(data):
        left *= 2
    below = [subtree(key, data[:left], first, flags & ~ROOT),
             subtree(key, data[left:], first + left // 1024, flags & ~ROOT)]
    return compress(key, struct.pack("<16I", *below[0], *below[1]), 0, 64, flags | PARENT)


def blake3(context, data):
    """Mode derive_key, 32 bytes."""
    key = subtree(IV, context, 0, CONTEXT | ROOT)
    return struct.pack("<8I", *subtree(key, data, 0, MATERIAL | ROOT))


def conclave():
    sess, sid = filler("sess")[0], filler("sid")[0]
    seed_b, seed_m, other_m, sk_e, sk_c, identity = (filler(name)[0] for name in
        ["seed_b", "seed_m", "other seed_m", "sk_e", "sk_c", "identity"])
    sk_m, other = hkdf(sess, seed_m, b"m"), hkdf(sess, other_m, b"m")
    pk_m, other_pk = x25519_public(sk_m), x25519_public(other)
    lower, higher = 4, 9
    salt = sid + min(pk_m, other_pk) + max(pk_m, other_pk)
    pair = hkdf(salt, x25519(sk_m, other_pk), b"conclave/v1/mask" + u32(lower) + u32(higher))
    b = hkdf(sess, seed_b, b"b")
    own = hkdf(b"", b, b"conclave/v1/self" + sid)
    plain = b"".join(filler("four shares and salts", 4))
    box_key = hkdf(sess, x25519(sk_e, x25519_public(sk_c)), b"conclave/v1/share" + u32(lower) + u32(higher))
    boxed = ChaCha20Poly1305(box_key).encrypt(bytes(12), plain, sess + u32(lower) + u32(higher))
    chunk = [b"MSK\0" + struct.pack("<Q", number) for number in (0, 1)]
    body = b"a body"
    preimage = b"conclave/v1/sig/Commit\0" + sess + u32(lower) + struct.pack("<Q", 0) + hashlib.sha512(body).digest()
    shape, adapter = filler("shape")[0], [0.0, -0.0, 1.0, -2.5, 3.0e-8, 1.5e30]
    merkle = bytes(at % 251 for at in range(5 * 4096 + 7))
    return {
        "sess": sess.hex(),
        "sid": sid.hex(),
        "digest": {"domain": "conclave/v1/sid", "parts": [sess.hex(), sid.hex()],
                   "digest": hashlib.sha256(b"conclave/v1/sid" + sess + sid).hexdigest()},
        "dealing": {"threshold": 4, "dealer": lower,
                    "seed_b": seed_b.hex(), "seed_m": seed_m.hex(), "pk_m": pk_m.hex(),
                    "self": dealing(seed_b, sess, lower, b"b", 4, 5),
                    "pair": dealing(seed_m, sess, lower, b"m", 4, 5)},
        "sealed": {"sk_e": sk_e.hex(), "sk_c": sk_c.hex(), "from": lower, "to": higher,
                   "plain": plain.hex(), "boxed": boxed.hex()},
        "mask": {"lower": lower, "higher": higher, "other_seed_m": other_m.hex(), "other_pk_m": other_pk.hex(),
                 "chacha20": [chacha20(pair, nonce, 0, bytes(64)).hex() for nonce in chunk],
                 "chacha20_end": chacha20(pair, chunk[0], 16383, bytes(64)).hex(),
                 "aes256ctr": [aes256ctr(pair, nonce + bytes(4), bytes(64)).hex() for nonce in chunk],
                 "aes256ctr_end": aes256ctr(pair, chunk[0] + struct.pack(">I", 65532), bytes(64)).hex(),
                 "own_chacha20": chacha20(own, chunk[0], 0, bytes(64)).hex()},
        "signature": {"identity": identity.hex(), "preimage": preimage.hex(),
                      "signature": Ed25519PrivateKey.from_private_bytes(identity).sign(preimage).hex()},
        "merkle": {"length": len(merkle), "rule": "byte i is i mod 251", "root": blake3(b"conclave/v1/vector", merkle).hex(),
                   "empty": blake3(b"conclave/v1/vector", b"").hex()},
        "adapter": {"shape": shape.hex(), "values": [struct.pack("<f", value).hex() for value in adapter],
                    "digest": blake3(b"conclave/v1/adapter", shape + b"".join(
                        struct.pack("<f", value) for value in adapter)).hex()},
    }


def check():
    """The copied files against OpenSSL."""
    count = 0
    for name in ["x25519", "ed25519", "hkdf", "chacha20", "chacha20poly1305", "aes256ctr", "blake3"]:
        with open(f"{name}.json", encoding="utf-8") as file:
            document = json.load(file)
        cases = document["cases"]
        for case in cases:
            raw = {key: bytes.fromhex(value) for key, value in case.items() if isinstance(value, str) and key != "name"}
            if name == "x25519":
                k, u = raw["scalar"], raw["u"]
                for _ in range(case.get("iterations", 1)):
                    k, u = x25519(k, u), k
                good = k == raw["out"]
            elif name == "ed25519":
                key = Ed25519PrivateKey.from_private_bytes(raw["secret"])
                public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
                try:
                    key.public_key().verify(raw["signature"], raw["message"])
                    good = public == raw["public"] and key.sign(raw["message"]) == raw["signature"]
                except InvalidSignature:
                    good = False
            elif name == "hkdf":
                good = hkdf(raw["salt"], raw["ikm"], raw["info"], len(raw["okm"])) == raw["okm"]
            elif name == "chacha20":
                good = chacha20(raw["key"], raw["nonce"], case["counter"], raw["plain"]) == raw["out"]
            elif name == "chacha20poly1305":
                good = ChaCha20Poly1305(raw["key"]).encrypt(raw["nonce"], raw["plain"], raw["aad"]) == raw["boxed"]
            elif name == "blake3":
                string = bytes(at % 251 for at in range(case["length"]))
                good = blake3(document["context"].encode(), string) == raw["out"]
            else:
                good = aes256ctr(raw["key"], raw["counter"], raw["plain"]) == raw["out"]
            if not good:
                raise SystemExit(f"{name}.json, {case['name']}: this script says otherwise")
            count += 1
    print(f"{count} copied vectors agree with OpenSSL, and BLAKE3's with this script")


def write(name, value):
    with open(name, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
    print(f"wrote {name}")


if __name__ == "__main__":
    check()
    source = "make.py: GF(2^8) by logarithms, shares as sums of powers"
    write("shamir.json", {"source": source, "cases": shamir_cases()})
    write("conclave.json", {"source": "make.py: the protocol's own derivations over hashlib and OpenSSL", **conclave()})
