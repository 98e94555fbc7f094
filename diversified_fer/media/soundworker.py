"""Puts the sound of one video under the pictures of another, in a process of its own; started by `h264.py`.

Arguments: the MP4 with the pictures, the video with the sound, the MP4 to write, the second of the source at which the
pictures begin, how many seconds they last, and the containers that may be opened. Writes nothing where there is no
sound. AAC and MP3 are copied as they are, everything else becomes AAC. It imports nothing but PyAV.
"""

import heapq
import sys
from collections.abc import Iterator
from typing import Any

import av

COPIED = ("aac", "mp3", "mp3float")  # what browsers play in an MP4
RATES = (44_100, 48_000)  # samples per second that are kept; others become the second
EARLY = 0.1  # seconds before the first picture, of which decoders need some to begin


def copied(packets: Iterator[Any], stream: Any, start: float, length: float) -> Iterator[tuple[float, Any]]:
    """Yield packets as they are, by time, for a stream of the file to write."""
    for packet in packets:
        if packet.dts is None or packet.pts is None:
            continue
        ticks = round(start / packet.time_base)
        seconds = float((packet.pts - ticks) * packet.time_base)
        if seconds >= length:
            return
        if seconds >= -EARLY:
            packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
            packet.stream = stream
            yield float(packet.dts * packet.time_base), packet


def encoded(frames: Iterator[Any], stream: Any, start: float, length: float) -> Iterator[tuple[float, Any]]:
    """Yield packets of AAC, by time."""
    for frame in frames:
        if frame.pts is None:
            continue
        frame.pts -= round(start / frame.time_base)
        seconds = float(frame.pts * frame.time_base)
        if seconds >= length:
            break
        if seconds >= 0:
            yield from ((seconds, packet) for packet in stream.encode(frame))
    yield from ((length, packet) for packet in stream.encode(None))


def main() -> None:
    """Join pictures and sound."""
    pictures, source, target = sys.argv[1:4]
    began, length, containers = float(sys.argv[4]), float(sys.argv[5]), sys.argv[6]
    limits = {"protocol_whitelist": "file", "format_whitelist": containers}
    with av.open(source, options=limits) as origin, av.open(pictures) as silent:
        if not origin.streams.audio:
            return
        sound, video = origin.streams.audio[0], silent.streams.video[0]
        first = next((stream for stream in origin.streams.video if stream.start_time is not None), None)
        start = began + (float(first.start_time * first.time_base) if first else 0.0)
        with av.open(target, "w", format="mp4", options={"movflags": "faststart"}) as result:
            shown = result.add_stream_from_template(video)
            if sound.codec_context.name in COPIED:
                heard = result.add_stream_from_template(sound)
                packets = copied(origin.demux(sound), heard, start, length)
            else:
                rate = sound.codec_context.sample_rate
                heard = result.add_stream("aac", rate=rate if rate in RATES else RATES[1])
                heard.codec_context.layout = "mono" if sound.codec_context.layout.nb_channels == 1 else "stereo"
                packets = encoded(origin.decode(sound), heard, start, length)
            seen = copied(silent.demux(video), shown, 0.0, float("inf"))
            for _, packet in heapq.merge(seen, packets, key=lambda pair: pair[0]):
                result.mux(packet)


if __name__ == "__main__":
    try:
        main()
    except (av.FFmpegError, ValueError, OverflowError) as error:
        sys.exit(" ".join(str(error).split())[:200])
