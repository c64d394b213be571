"""What all models agree on; imports no network."""

PAD_ID = 0  # the token that fills rows up, as in SeqIO
