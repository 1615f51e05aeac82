"""Stacking: many weak learners, each with its own feedback, whose outputs one more layer reads (Poli 2017).

    K learners, 784-800-10 with tanh, DFA for one epoch:        features = their outputs before the sigmoid (N, K C)
    one layer on the features, dense or random-diagonal (RD):   C outputs, trained for up to 200 epochs

The claim of its README: other feedback matrices learn other features, so that a stack of learners which start from the
same weights is better than each of them. Code: https://github.com/iacolippo/Direct-Feedback-Alignment, the scripts of
`Stacking-dfa-nets`, where nothing is published; run by us with K = 10 they give test errors of 14.7 % (dense, same
start), 10.3 % (dense, different starts) and 28.3 % (RD, same start), of learners with 17.2 to 18.7 %.

The dense layer's error jumps from epoch to epoch at that rate: with K = 10 one run here went between 13.9 and 20.6 %
(same start) and between 9.7 and 18.6 % (different starts) after epoch 10, so a number of the last epoch is one draw of
these. A summary also has the mean, the least and the largest of the last ten epochs.

Deviations: (1) in the RD layer both diagonals get their exact gradient, the mean over the batch; the scripts take the
mean for one of them and the first sample of the batch for the other; (2) a last, smaller batch trains too; (3) seeds of
weights, feedback and order stand apart, and member k has seed + k (of the weights only where the start is different).
"""
