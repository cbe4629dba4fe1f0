// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the kinds of the API group dgm.acgs.io: what an
// improvement of a running service is, and the policies that choose the next.
//
// +kubebuilder:object:generate=true
// +groupName=dgm.acgs.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// GroupVersion is the API group and version of every kind in this package.
	GroupVersion = schema.GroupVersion{Group: "dgm.acgs.io", Version: "v1alpha1"}

	// SchemeBuilder registers the kinds of this package.
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds the kinds of this package to a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&ImprovementWorkspace{}, &ImprovementWorkspaceList{},
		&BanditPolicy{}, &BanditPolicyList{},
		&SystemConfiguration{}, &SystemConfigurationList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
