"""Probes in other people's files, one module per format, and on the Hugging Face Hub.

    gguf              llama.cpp control vectors, which repeng reads and writes too     `control_vector.py`
    steering-vectors  the vectors of that package                                      `steering_vectors.py`
    liseco            the linear probes of the LiSeCo paper's code                     `liseco.py`

Each reader returns a `Foreign`; `adopt.py` makes a probe of it, `hand_out.py` writes one. None of these formats can
hold all of a probe, in either direction: what is lost is said on the way and stands in `manifest.origin.lost`.
"""
