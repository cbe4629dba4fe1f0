// SPDX-License-Identifier: Apache-2.0

package analysis

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// shift is by how much one series of values lies above another: an estimate and
// the interval that holds the true one with the confidence that was asked for.
// Its ends are infinite when there are too few values to tell.
type shift struct {
	estimate, low, high float64
}

// shiftOf estimates how far after lies above before. Both are in the order of
// time. tail is the probability of error at each end of the interval.
//
// The estimate is the median of all differences of a value after and one before
// (Hodges and Lehmann 1963), the interval the one of the Mann-Whitney test: all
// shifts that it does not reject (Hollander, Wolfe and Chicken 2014, section
// 4.3). Neither asks for a distribution, and outliers move them little.
//
// Samples that follow one another closely are alike, and the test would take
// them for more evidence than they are. The variance of its statistic is
// inflated by (1+r)/(1-r), which is what autocorrelation r does to a mean in an
// AR(1) process (Bayley and Hammersley 1946), and Student's distribution is used
// in place of the normal one, with the degrees of freedom that are left.
func shiftOf(before, after []float64, tail float64) shift {
	m, n := float64(len(before)), float64(len(after))
	inflation := varianceInflation(before, after)
	deviation := math.Sqrt(m * n * (m + n + 1) / 12 * inflation)
	freedom := max(1, (m+n)/inflation-2)
	quantile := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: freedom}.Quantile(1 - tail)

	x, y := slices.Sorted(slices.Values(before)), slices.Sorted(slices.Values(after))
	pairs := len(x) * len(y)
	result := shift{low: math.Inf(-1), high: math.Inf(1)}
	result.estimate = (nthDifference(x, y, (pairs+1)/2) + nthDifference(x, y, pairs/2+1)) / 2
	if rank := int(math.Floor(m*n/2 - quantile*deviation)); rank >= 1 {
		result.low, result.high = nthDifference(x, y, rank), nthDifference(x, y, pairs+1-rank)
	}
	return result
}

const (
	// fewestBatches is how many batches the smaller side has at least.
	fewestBatches = 20
	// smallestBatch is the size from which batches are worth the samples they cost.
	smallestBatch = 3
)

// averaged are both sides as the means of batches of one size that follow one
// another, when there are many samples, else as they are. In a mean the noise of
// each measurement fades, so that the autocorrelation of neighbouring ones shows
// what drifts slowly, which neighbouring samples hide (batch means: Conway 1963,
// Schmeiser 1982).
func averaged(before, after []float64) (x, y []float64) {
	size := min(len(before), len(after)) / fewestBatches
	if size < smallestBatch {
		return before, after
	}
	return batchMeans(before, size), batchMeans(after, size)
}

// batchMeans are means of as many values each, or one more.
func batchMeans(values []float64, size int) []float64 {
	means := make([]float64, len(values)/size)
	for i := range means {
		means[i] = stat.Mean(values[i*len(values)/len(means):(i+1)*len(values)/len(means)], nil)
	}
	return means
}

// maxAutocorrelation keeps the inflation finite.
const maxAutocorrelation = 0.95

// varianceInflation is by how much autocorrelation makes the variance of a mean
// larger, at least 1. The lag-1 autocorrelation is pooled over both series, each
// around its own mean. Its estimate is too small by about (1+3r)/n (Kendall
// 1954), which is what matters when n is small, and corrected for that.
func varianceInflation(before, after []float64) float64 {
	covarianceBefore, varianceBefore := lag1(before)
	covarianceAfter, varianceAfter := lag1(after)
	variance := varianceBefore + varianceAfter
	if variance == 0 {
		return 1 // constant series
	}
	r := (covarianceBefore + covarianceAfter) / variance
	r += (1 + 3*max(0, r)) / (float64(len(before)+len(after)) / 2)
	r = min(max(0, r), maxAutocorrelation)
	return (1 + r) / (1 - r)
}

// lag1 are the sums of the products of neighbouring deviations from the mean,
// and of their squares.
func lag1(values []float64) (covariance, variance float64) {
	mean := stat.Mean(values, nil)
	for i, value := range values {
		variance += (value - mean) * (value - mean)
		if i > 0 {
			covariance += (value - mean) * (values[i-1] - mean)
		}
	}
	return covariance, variance
}

// nthDifference is the n-th smallest, from 1, of all differences of a value of y
// and one of x, both sorted. It bisects over the values that a float64 can have,
// and so needs no room for all of them.
func nthDifference(x, y []float64, n int) float64 {
	low, high := y[0]-x[len(x)-1], y[len(y)-1]-x[0]
	for {
		middle := low/2 + high/2
		if !(low < middle && middle < high) { // also when one of them is no number
			break
		}
		if differencesUpTo(x, y, middle) >= n {
			high = middle
		} else {
			low = middle
		}
	}
	if differencesUpTo(x, y, low) >= n {
		return low
	}
	return high
}

// differencesUpTo counts the differences of a value of y and one of x that are
// at most a bound.
func differencesUpTo(x, y []float64, bound float64) int {
	count, j := 0, 0
	for _, value := range x {
		for j < len(y) && y[j]-value <= bound {
			j++
		}
		count += j
	}
	return count
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return sorted[middle-1] + (sorted[middle]-sorted[middle-1])/2
}
