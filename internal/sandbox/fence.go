// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
)

// What a sandbox may take of the cluster, and what a container gets that states
// nothing.
const (
	maxPods           = "50"
	maxCPURequests    = "8"
	maxMemoryRequests = "16Gi"
	maxMemoryLimits   = "32Gi"
	maxStorage        = "20Gi"

	defaultCPURequest    = "100m"
	defaultMemoryRequest = "128Mi"
	defaultMemoryLimit   = "1Gi"
)

// Annotations by which admission plugins (PodNodeSelector, PodTolerationRestriction)
// keep the pods of a namespace to some nodes.
const (
	schedulingPrefix = "scheduler.alpha.kubernetes.io/"
	openShiftNodes   = "openshift.io/node-selector"
)

const (
	podSecurityPrefix  = "pod-security.kubernetes.io/"
	podSecurityEnforce = podSecurityPrefix + "enforce"
	levelPrivileged    = "privileged"
	levelBaseline      = "baseline"
)

func (d *Design) namespace() *corev1.Namespace {
	w := d.source.Improvement
	labels := map[string]string{dgmv1alpha1.LabelSandbox: string(w.UID)}
	for _, key := range slices.Sorted(maps.Keys(d.source.NamespaceLabels)) {
		if len(key) > len(podSecurityPrefix) && key[:len(podSecurityPrefix)] == podSecurityPrefix {
			labels[key] = d.source.NamespaceLabels[key]
		}
	}
	if level := labels[podSecurityEnforce]; level == "" || level == levelPrivileged {
		labels[podSecurityEnforce] = levelBaseline
	}
	annotations := map[string]string{
		dgmv1alpha1.AnnotationSandboxOf:     w.Namespace + "/" + w.Name,
		dgmv1alpha1.AnnotationImprovementID: w.Status.ImprovementID,
	}
	for key, value := range d.source.NamespaceAnnotations {
		if strings.HasPrefix(key, schedulingPrefix) || key == openShiftNodes {
			annotations[key] = value
		}
	}
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: NamespaceName(w.Status.ImprovementID), Labels: labels, Annotations: annotations,
	}}
}

func (d *Design) fence() []Object {
	d.account = &corev1.ServiceAccount{ObjectMeta: d.meta(Account), AutomountServiceAccountToken: new(false)}
	return []Object{
		d.roleBinding(),
		&networkingv1.NetworkPolicy{ObjectMeta: d.meta("deny-all"), Spec: networkingv1.NetworkPolicySpec{PolicyTypes: bothWays()}},
		d.allowed(),
		d.quota(),
		d.limits(),
		d.account,
	}
}

func (d *Design) roleBinding() *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: d.meta(Role),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: Role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: d.source.OperatorNamespace, Name: d.source.OperatorAccount}},
	}
}

func bothWays() []networkingv1.PolicyType {
	return []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
}

// allowed lets the sandbox's pods reach each other, the cluster's DNS and what
// spec.sandbox.egress names.
func (d *Design) allowed() *networkingv1.NetworkPolicy {
	inside := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}
	egress := []networkingv1.NetworkPolicyEgressRule{
		{To: []networkingv1.NetworkPolicyPeer{inside}},
		{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: namespaceNamed(metav1.NamespaceSystem)}}, Ports: []networkingv1.NetworkPolicyPort{
			{Protocol: new(corev1.ProtocolUDP), Port: new(intstr.FromInt32(53))}, {Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(53))},
		}},
	}
	if declared := d.source.Improvement.Spec.Sandbox; declared != nil {
		for _, place := range declared.Egress {
			if rule, ok := d.egress(place); ok {
				egress = append(egress, rule)
			}
		}
	}
	return &networkingv1.NetworkPolicy{ObjectMeta: d.meta("allow-declared"), Spec: networkingv1.NetworkPolicySpec{
		PolicyTypes: bothWays(),
		Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{inside}}},
		Egress:      egress,
	}}
}

// metadataServices are where clouds hand the credentials of a node to whoever asks
// from it: AWS, Azure, GCP and others; AWS by IPv6; GCP by IPv6; Alibaba.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254"), netip.MustParseAddr("100.100.100.200"),
}

// egress is the rule that opens a place; none for one that nothing is left of.
func (d *Design) egress(place dgmv1alpha1.SandboxEgress) (networkingv1.NetworkPolicyEgressRule, bool) {
	peer := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: place.CIDR}}
	if place.CIDR == "" {
		labels := map[string]string{}
		for key, value := range place.PodSelector {
			labels[key] = string(value)
		}
		peer = networkingv1.NetworkPolicyPeer{
			NamespaceSelector: namespaceNamed(d.source.Improvement.Namespace), PodSelector: &metav1.LabelSelector{MatchLabels: labels},
		}
	} else if block, err := netip.ParsePrefix(place.CIDR); err == nil {
		for _, address := range metadataServices {
			if !block.Contains(address) {
				continue
			}
			if block.IsSingleIP() {
				d.leave("egress to %s: clouds hand out credentials there, no sandbox reaches it", place.CIDR)
				return networkingv1.NetworkPolicyEgressRule{}, false
			}
			peer.IPBlock.Except = append(peer.IPBlock.Except, netip.PrefixFrom(address, address.BitLen()).String())
		}
	}
	rule := networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{peer}}
	for _, port := range place.Ports {
		rule.Ports = append(rule.Ports, networkingv1.NetworkPolicyPort{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(port))})
	}
	return rule, true
}

func namespaceNamed(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}}
}

func (d *Design) quota() *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: d.meta(Role), Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{
		corev1.ResourcePods:                  resource.MustParse(maxPods),
		corev1.ResourceRequestsCPU:           resource.MustParse(maxCPURequests),
		corev1.ResourceRequestsMemory:        resource.MustParse(maxMemoryRequests),
		corev1.ResourceLimitsMemory:          resource.MustParse(maxMemoryLimits),
		corev1.ResourceRequestsStorage:       resource.MustParse(maxStorage),
		corev1.ResourceServicesLoadBalancers: resource.MustParse("0"),
		corev1.ResourceServicesNodePorts:     resource.MustParse("0"),
	}}}
}

func (d *Design) limits() *corev1.LimitRange {
	return &corev1.LimitRange{ObjectMeta: d.meta(Role), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type:           corev1.LimitTypeContainer,
		DefaultRequest: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(defaultCPURequest), corev1.ResourceMemory: resource.MustParse(defaultMemoryRequest)},
		Default:        corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(defaultMemoryLimit)},
	}}}}
}
