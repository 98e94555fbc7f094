"""Videos of every kind are read with the right times, and written as browsers play them, with their sound."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from diversified_fer.media import h264
from diversified_fer.media.h264 import H264File, make_video, writes_h264
from diversified_fer.media.media import Frame, MediaError, VideoFile, read_media, stream_video

BEEP = (1.0, 1.5)  # seconds of the tone in the sound


def write_source(
    path: Path,
    times: list[float] | None = None,
    codec: str = "libx264",
    sound: str | None = "aac",
    samples: int = 44_100,
    size: tuple[int, int] = (96, 64),
    rotation: float = 0,
    delay: float = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video whose picture k is grey of value 20 + 2 k but for a red corner, and whose sound is a beep.

    With B-frames, as telephones and cameras write them: pictures are stored in another order than they are shown in.
    """
    times = [k / 25 for k in range(60)] if times is None else times
    clock = Fraction(1, 25) if codec == "mpeg4" else Fraction(1, 90_000)
    with av.open(str(path), "w", options=options or {}) as file:
        video = file.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt, video.codec_context.time_base = *size, "yuv420p", clock
        if codec == "libx264":
            video.codec_context.max_b_frames, video.codec_context.gop_size = 3, 12
            video.options = {"crf": "10"}
        if rotation:
            video.set_display_rotation(rotation)
        if sound:
            audio = file.add_stream(sound, rate=samples)
            audio.codec_context.layout = "stereo"
        for k, time in enumerate(times):
            picture = np.full((size[1], size[0], 3), 20 + 2 * k, np.uint8)
            picture[:16, :16] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round((time + delay) / clock), clock
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound:
            seconds = np.arange(round((times[-1] + 0.04) * samples)) / samples
            tone = np.sin(2 * np.pi * 1000 * seconds) * ((seconds >= BEEP[0]) & (seconds < BEEP[1])) / 2
            for start in range(0, len(tone), 1024):
                part = np.stack([tone[start : start + 1024]] * 2).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
                frame.rate, frame.time_base = samples, Fraction(1, samples)
                frame.pts = start + round(delay * samples)
                file.mux(audio.encode(frame))
            file.mux(audio.encode(None))
    return path


def beep_of(path: Path) -> tuple[str, float, float]:
    """Return the codec of a file's sound, and where its beep begins and ends."""
    loud = []
    with av.open(str(path)) as file:
        name = file.streams.audio[0].codec_context.name
        resampler = av.AudioResampler(format="fltp", layout="mono")
        for decoded in file.decode(file.streams.audio[0]):
            for frame in resampler.resample(decoded):
                places = np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.2)
                ends = places[[0, -1]].tolist() if len(places) else []
                loud += [float(frame.pts * frame.time_base) + place / frame.rate for place in ends]
    return name, min(loud), max(loud)


def copy(source: Path, target: Path, **options) -> list[Frame]:
    """Write a video's pictures and sound to another file; returns them."""
    frames = list(stream_video(source))
    with make_video(target, source, **options) as video:
        for frame in frames:
            video.write(frame.picture, frame.seconds, frame.rate)
    return frames


def value(frame: Frame) -> float:
    height, width = frame.picture.shape[:2]
    return float(frame.picture[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4].mean())


VARIABLE = np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.1, 0.3], 60)).tolist()
KINDS = {
    "as telephones write it": ("phone.mp4", {}),
    "turned": ("turned.mp4", {"rotation": 90}),
    "of a variable rate": ("variable.mp4", {"times": VARIABLE, "sound": None}),
    "that begins late": ("late.mp4", {"delay": 1.5}),
    "of a broadcast": ("broadcast.ts", {"delay": 10}),
    "of the web": ("web.webm", {"codec": "libvpx", "sound": "libopus", "samples": 48_000}),
    "with MP3": ("film.mkv", {"sound": "libmp3lame"}),
    "with bare sound": ("bare.avi", {"codec": "mpeg4", "sound": "pcm_s16le"}),
    "with the sound of a telephone": ("old.mov", {"sound": "pcm_s16le", "samples": 8000}),
    "without sound": ("silent.mp4", {"sound": None}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_times_and_sound_go_through(kind, tmp_path):
    name, options = KINDS[kind]
    source, target = write_source(tmp_path / name, **options), tmp_path / "annotated.mp4"
    frames = copy(source, target)
    times = options.get("times", [k / 25 for k in range(60)])
    assert [frame.number for frame in frames] == list(range(60))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.array(times) - times[0], atol=2e-3)
    np.testing.assert_allclose([value(frame) for frame in frames], 20 + 2 * np.arange(60), atol=5)
    corner = (8, 8) if not options.get("rotation") else (-8, 8)  # turned by 90 degrees against the clock
    assert frames[0].picture[corner][0] > 180 > 80 > frames[0].picture[corner][1]
    data = target.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "a browser begins to play before it has all"
    with av.open(str(target)) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert len(file.streams.audio) == (options.get("sound", "aac") is not None)
    written = list(stream_video(target))
    np.testing.assert_allclose([frame.seconds for frame in written], np.array(times) - times[0], atol=2e-3)
    for before, after in zip(frames, written, strict=True):
        assert after.picture.shape == before.picture.shape
        assert np.abs(after.picture[corner].astype(int) - before.picture[corner]).max() < 16, "the colours stay"
        assert abs(value(after) - value(before)) < 5
    if options.get("sound", "aac"):
        codec, begin, end = beep_of(target)
        assert codec in ("aac", "mp3float") and begin == pytest.approx(BEEP[0], abs=0.02)
        assert end == pytest.approx(BEEP[1], abs=0.02)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "annotated.mp4"])


def test_sound_follows_when_only_a_part_of_the_pictures_is_written(tmp_path):
    source, target = write_source(tmp_path / "v.mp4"), tmp_path / "part.mp4"
    frames = list(stream_video(source, every=2))
    with make_video(target, source) as video:
        for frame in frames[10:25]:  # from 0.8 s to 1.92 s
            video.write(frame.picture, frame.seconds, frame.rate)
    _, begin, _ = beep_of(target)
    assert begin == pytest.approx(BEEP[0] - 0.8, abs=0.03)
    with av.open(str(target)) as file:
        assert float(file.duration / av.time_base) == pytest.approx(1.2, abs=0.06), "and ends with the last picture"


def test_a_broken_tail_keeps_what_there_is_and_says_so(tmp_path):
    source = write_source(tmp_path / "whole.mp4", options={"movflags": "faststart"})
    data = source.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    *frames, last = read_media([tmp_path / "cut.mp4"])
    assert 20 < len(frames) < 60 and last.picture is None and "cut.mp4 is damaged: it ends after" in last.error
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(len(frames)) / 25, atol=2e-3)
    np.testing.assert_allclose([value(frame) for frame in frames[:-3]], 20 + 2 * np.arange(len(frames) - 3), atol=5)
    with make_video(tmp_path / "annotated.mp4", tmp_path / "cut.mp4") as video:
        for frame in frames:
            video.write(frame.picture, frame.seconds, frame.rate)
    assert len(list(stream_video(tmp_path / "annotated.mp4"))) == len(frames)


def test_sides_of_odd_length_repeat_their_border(tmp_path):
    picture = np.full((65, 95, 3), 100, np.uint8)
    picture[:, -8:] = (0, 200, 0)
    with make_video(tmp_path / "odd.mp4") as video:
        for k in range(3):
            video.write(picture, k / 10, 10.0)
    [first, *_] = stream_video(tmp_path / "odd.mp4")
    assert first.picture.shape == (66, 96, 3) and first.picture[30, -1, 1] > 150 > 60 > first.picture[30, -1, 0]


def test_sound_that_cannot_be_read_is_one_line_and_costs_nothing_else(tmp_path, monkeypatch):
    source = write_source(tmp_path / "v.mp4")
    for number, (code, message) in enumerate(
        (
            ("import sys; sys.exit('it is damaged')", "cannot be read (it is damaged)"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "cannot be read (its decoder crashes)"),
            ("import time; time.sleep(60)", "takes more than 1 s to read"),
        )
    ):
        monkeypatch.setattr(h264, "WORKER", [sys.executable, "-c", code])
        monkeypatch.setattr(h264, "PATIENCE", 1.0 if "sleep" in code else 30.0)
        said: list[str] = []
        frames = copy(source, tmp_path / f"{number}.mp4", say=said.append)
        assert len(said) == 1 and f"{number}.mp4: without sound; that of " in said[0] and message in said[0]
        assert len(list(stream_video(tmp_path / f"{number}.mp4"))) == len(frames)
    assert not list(tmp_path.glob(".*"))


def test_an_exception_leaves_nothing_and_times_that_go_back_are_passed_over(tmp_path, monkeypatch):
    picture = np.zeros((64, 96, 3), np.uint8)
    with pytest.raises(RuntimeError), make_video(tmp_path / "stopped.mp4") as video:
        video.write(picture, 0.0, 10.0)
        raise RuntimeError
    with pytest.raises(MediaError, match="change from"), make_video(tmp_path / "sizes.mp4") as video:
        video.write(picture, 0.0, 10.0)
        video.write(picture[:32], 0.1, 10.0)
    refusal = r"refused.mp4 cannot be written as H.264 of 96 x 64 pixels"
    with pytest.raises(MediaError, match=refusal), make_video(tmp_path / "refused.mp4") as video:
        monkeypatch.setattr(h264, "QUALITY", {"crf": "no number"})
        video.write(picture, 0.0, 10.0)
    monkeypatch.undo()
    with make_video(tmp_path / "ends.mp4") as video:  # which the caller goes on without
        video.write(picture, 0.0, 10.0)
        monkeypatch.setattr(video, "_mux", lambda _: (_ for _ in ()).throw(MediaError("no more")))
        with pytest.raises(MediaError, match="no more"):
            video.write(picture, 0.1, 10.0)
    assert not list(tmp_path.iterdir())
    with make_video(tmp_path / "back.mp4") as video:
        for seconds in (0.0, 0.1, 0.05, 0.1, 0.3):
            video.write(picture, seconds, 10.0)
    found = [frame.seconds for frame in stream_video(tmp_path / "back.mp4")]
    np.testing.assert_allclose(found, [0, 0.1, 0.3], atol=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_are_written_and_their_sound_is_found(tmp_path):
    folder = tmp_path / os.fsdecode(b"f_\xff")
    folder.mkdir()
    source = write_source(tmp_path / "v.mp4").rename(folder / os.fsdecode(b"v_\xfe.mp4"))
    copy(source, folder / "annotated.mp4")
    (folder / "annotated.mp4").rename(tmp_path / "plain.mp4")
    assert beep_of(tmp_path / "plain.mp4")[0] == "aac"


def test_without_pyav_the_video_is_mpeg4_and_a_line_says_how_to_have_more(tmp_path):
    source = write_source(tmp_path / "v.mp4")
    program = (
        "import sys; sys.modules['av'] = None\n"
        "import numpy as np\n"
        "from diversified_fer.command import Labelling, label_media\n"
        "from diversified_fer.scores import Scores\n"
        "class Sure:\n"
        "    labels, image_size, num_branches, dimensions = ('calm',), 32, 1, ()\n"
        "    def score(self, faces, batch_size=32, flip=False):\n"
        "        n = len(faces); return Scores(np.ones((n, 1), np.float32), np.zeros((n, 1), int), np.zeros((n, 0)))\n"
        "from pathlib import Path\n"
        "label_media(Labelling((Path(sys.argv[1]),), detector='none', annotate=True, output=Path(sys.argv[2])), Sure)\n"
    )
    repository = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program, source, tmp_path / "o"], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if "MPEG-4" in line]
    assert 'pip install "av>=16"' in line and "without sound" in line
    assert b"mp4v" in (tmp_path / "o" / "annotated" / "v.mp4").read_bytes()
    assert writes_h264() and isinstance(make_video(tmp_path / "x.mp4"), H264File)
    assert type(VideoFile(tmp_path / "x.mp4")) is VideoFile
