// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// requests counts what an API server was asked, by verb and resource.
type requests map[string]float64

// writeVerbs are those of apiserver_request_total that change something.
var writeVerbs = []string{"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"}

// notCounted are written to stay leader, or not stored at all.
var notCounted = []string{"leases", "subjectaccessreviews", "selfsubjectaccessreviews", "tokenreviews"}

// readVerbs are those of apiserver_request_total that read, but for watches.
var readVerbs = []string{"GET", "LIST"}

// writesOf reads how many writes an API server has served since its start.
func writesOf(ctx context.Context, config *rest.Config) (requests, error) {
	return requestsOf(ctx, config, writeVerbs)
}

// requestsOf reads how many requests with some verbs an API server has served
// since its start.
func requestsOf(ctx context.Context, config *rest.Config, verbs []string) (requests, error) {
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	text, err := clients.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the API server's metrics: %w", err)
	}
	families, err := parseMetrics(text)
	if err != nil {
		return nil, err
	}
	counted := requests{}
	for _, m := range families["apiserver_request_total"].GetMetric() {
		labels := labelsOf(m)
		if slices.Contains(verbs, labels["verb"]) && !slices.Contains(notCounted, labels["resource"]) {
			counted[strings.TrimSuffix(labels["verb"]+" "+labels["resource"]+"/"+labels["subresource"], "/")] += m.GetCounter().GetValue()
		}
	}
	return counted, nil
}

// elections counts the events of leader election: like the Lease, they are
// nothing that reconciling writes.
func elections(ctx context.Context, config *rest.Config) (float64, error) {
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 0, err
	}
	list, err := clients.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "reason=LeaderElection,involvedObject.kind=Lease"})
	if err != nil {
		return 0, fmt.Errorf("list the events of leader election: %w", err)
	}
	return float64(len(list.Items)), nil
}

// since lists what was asked after an earlier count, and how often in all.
func (r requests) since(earlier requests) (total float64, list string) {
	var parts []string
	for what, n := range r {
		if more := n - earlier[what]; more > 0 {
			total += more
			parts = append(parts, fmt.Sprintf("%s %.0f", what, more))
		}
	}
	slices.Sort(parts)
	return total, strings.Join(parts, ", ")
}

func parseMetrics(text []byte) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("parse metrics: %w", err)
	}
	return families, nil
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := make(map[string]string, len(m.GetLabel()))
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	return labels
}
