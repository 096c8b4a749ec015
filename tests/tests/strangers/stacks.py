# Knocks at port 11434 in forms that scapy writes: stacks of VLAN tags, IPv4 options, IPv6 extension
# headers, fragments. Each has a source port of its own.
#   stacks.py INTERFACE [HARDWARE-ADDRESS] SOURCE SERVER
# With a hardware address the frames have an Ethernet header, and tags; without one they are packets.
import sys

from scapy.all import *

conf.verb = 0
interface, *hardware, source, server = sys.argv[1:]
ports = iter(range(30000, 31000))


def syn():
    return TCP(sport=next(ports), dport=11434, flags="S", seq=1)


def options(length):
    return IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=b"z" * length)])


def chain(*headers):
    packet = IPv6(src=source, dst=server)
    for header in headers:
        packet /= header
    return packet / syn()


def packets4():
    head = lambda **more: IP(src=source, dst=server, id=next(ports), **more)
    yield head() / syn()
    yield head(flags="DF", tos=0xB8) / syn()
    yield head(options=[IPOption_NOP()] * 40) / syn()
    yield head(options=[IPOption_RR(length=39, routers=["0.0.0.0"] * 9)]) / syn()
    yield head(options=[IPOption_Router_Alert()]) / syn()
    pieces = fragment(head() / syn() / (b"x" * 64), fragsize=8)
    yield from pieces
    yield from reversed(fragment(head() / syn() / (b"x" * 64), fragsize=24))


def packets6():
    yield chain()
    yield chain(options(4))
    yield chain(*[options(4)] * 8)
    yield chain(options(252), options(252))
    yield chain(IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]), options(12))
    yield chain(IPv6ExtHdrRouting(type=0, segleft=0))
    yield chain(IPv6ExtHdrFragment(offset=0, m=0, id=9))
    yield chain(options(4), IPv6ExtHdrFragment(offset=0, m=0, id=10), options(4))
    whole = IPv6(src=source, dst=server) / IPv6ExtHdrFragment(id=77) / syn() / (b"x" * 200)
    pieces = fragment6(whole, 160)
    yield from reversed(pieces)


packets = list(packets6() if ":" in server else packets4())
if hardware:
    frames = [Ether(dst=hardware[0]) / packet for packet in packets]
    for count in (1, 2, 3, 8):
        for kinds in ((Dot1Q,), (Dot1AD, Dot1Q)):
            frame = Ether(dst=hardware[0])
            for position in range(count):
                frame /= kinds[position % len(kinds)](vlan=0, prio=position % 8)
            knock = chain() if ":" in server else IP(src=source, dst=server) / syn()
            frames.append(frame / knock)
    sendp(frames, iface=interface)
else:
    for packet in packets:
        send(packet, iface=interface)
